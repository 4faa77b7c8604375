"""Whether this worker is fit to read: asked after an error, so that what ails a worker is held against no film."""

import threading
from collections.abc import Callable
from typing import Final

from sqlalchemy.exc import InternalError

from pneumowatch.errors import ShuttingDown
from pneumowatch.logs import get
from worker.portions import out_of_memory

log = get("worker")

FIRST_DELAY: Final = 1.0  # seconds until an unfit worker is tried again; doubled up to the last, until a film was read
LAST_DELAY: Final = 60.0
LOOK_SECONDS: Final = 0.2
MANY: Final = 3  # different films that end in an error one after the other, each alone: it is not the films


class Fitness:
    """An error has one of two causes. A film: then others can be read meanwhile, and it is found by reading it alone.
    Or the worker, whose device is full or broken: then none can, and films must neither be blamed nor be fetched from
    those who could read them.

    Args:
        stop: set at shutdown, which ends every wait.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._lock = threading.Lock()
        self._trying = threading.Lock()  # apart: who has films in hand must not wait for a trial to give them back
        self._fit = True
        self._delay = 0.0
        self._erred: set[int] = set()  # films that ended in an error alone since any was read

    def wait(self, trial: Callable[[], object]) -> None:
        """Returns once films may be claimed: at once where this worker is fit, else when a trial has passed, which is
        made later and later. Raises ShuttingDown."""
        if self._fit:
            return
        with self._trying:  # one thread tries; the others wait for it
            while not self._fit:
                if self._stop.wait(self._delay):
                    raise ShuttingDown("Shutdown was asked for while this worker could not read.")
                passed = self._passes(trial)
                with self._lock:
                    if passed:
                        self._fit = True
                        log.info("this worker tries to read again")
                    else:
                        self._put_off()

    def watch(self, trial: Callable[[], object], tell: Callable[[bool], None]) -> None:
        """Until shutdown, `tell` of it whenever this worker has become unfit, and when a trial has passed since."""
        while not self._stop.wait(LOOK_SECONDS):
            if not self._fit:
                tell(False)
                try:
                    self.wait(trial)
                except ShuttingDown:
                    return
                tell(True)

    def blames(self, error: Exception, suspect: int | None, trial: Callable[[], object]) -> bool:
        """Whether an error is held against the films that were read. Where it is not, this worker is unfit from now on.

        Args:
            suspect: the film, where one was read alone.
            trial: reads a film that any worker can read; raises where this one cannot.
        """
        with self._lock:
            if suspect is not None:
                self._erred.add(suspect)
            # films that were read together are only found suspect, which costs them nothing and saves the good ones
            one_of_many = suspect is not None and len(self._erred) >= MANY
            if not _of_the_machine(error) and not one_of_many and self._passes(trial):
                return True
            if self._fit:
                self._fit = False
                self._put_off()
            return False

    def has_read(self) -> None:
        """Films were read and written: whatever ailed this worker is over."""
        if self._delay or self._erred:
            with self._lock:
                self._erred.clear()
                if self._fit:
                    self._delay = 0.0

    def _passes(self, trial: Callable[[], object]) -> bool:
        try:
            trial()
        except ShuttingDown:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, this worker cannot read, and must live on
            log.error("this worker cannot read even a blank film", error=type(error).__name__)
            return False
        return True

    def _put_off(self) -> None:
        self._delay = min(max(2 * self._delay, FIRST_DELAY), LAST_DELAY)
        log.error("this worker cannot read now; films wait, or go to others", again_in_seconds=self._delay)


def _of_the_machine(error: Exception) -> bool:
    """No film can be at fault: those are read in children, whose troubles are told as reasons. Memory is short, no
    process can be started, the database takes no writes as it has become a standby, ..."""
    return out_of_memory(error) or isinstance(error, OSError | InternalError)
