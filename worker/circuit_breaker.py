"""Whether this worker is fit to read: asked after an error, so that what ails a worker is held against no film."""

import threading
from collections.abc import Callable
from typing import Final

from sqlalchemy.exc import InternalError

from pneumowatch.errors import ShuttingDown
from pneumowatch.logs import get_logger
from worker.inference.adaptive_batch import is_out_of_memory

log = get_logger("worker")

FIRST_PROBE_DELAY: Final = (
    1.0  # seconds until an unfit worker is tried again; doubled up to the last, until a film was read
)
LAST_PROBE_DELAY: Final = 60.0
BREAKER_CHECK_SECONDS: Final = 0.2
FAILURE_THRESHOLD: Final = (
    3  # different films that end in an error one after the other, each alone: it is not the films
)


class CircuitBreaker:
    """An error has one of two causes. A film: then others can be read meanwhile, and it is found by reading it alone.
    Or the worker, whose device is full or broken: then none can, and films must neither be blamed nor be fetched from
    those who could read them.

    Args:
        stop: set at shutdown, which ends every wait.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._lock = threading.Lock()
        self._probe_lock = threading.Lock()  # apart: who has films in hand must not wait for a trial to give them back
        self._closed = True
        self._delay = 0.0
        self._failed_scans: set[int] = set()  # films that ended in an error alone since any was read

    def wait(self, probe: Callable[[], object]) -> None:
        """Returns once films may be claimed: at once where this worker is fit, else when a trial has passed, which is
        made later and later. Raises ShuttingDown."""
        if self._closed:
            return
        with self._probe_lock:  # one thread tries; the others wait for it
            while not self._closed:
                if self._stop.wait(self._delay):
                    raise ShuttingDown("Shutdown was asked for while this worker could not read.")
                succeeded = self._probe_succeeds(probe)
                with self._lock:
                    if succeeded:
                        self._closed = True
                        log.info("this worker tries to read again")
                    else:
                        self._back_off()

    def watch_health(self, probe: Callable[[], object], on_change: Callable[[bool], None]) -> None:
        """Until shutdown, `on_change` of it whenever this worker has become unfit, and when a trial has passed since."""
        while not self._stop.wait(BREAKER_CHECK_SECONDS):
            if not self._closed:
                on_change(False)
                try:
                    self.wait(probe)
                except ShuttingDown:
                    return
                on_change(True)

    def record_failure(self, error: Exception, quarantined: int | None, probe: Callable[[], object]) -> bool:
        """Whether an error is held against the films that were read. Where it is not, this worker is unfit from now on.

        Args:
            quarantined: the film, where one was read alone.
            probe: reads a film that any worker can read; raises where this one cannot.
        """
        with self._lock:
            if quarantined is not None:
                self._failed_scans.add(quarantined)
            # films that were read together are only found suspect, which costs them nothing and saves the good ones
            too_many_failures = quarantined is not None and len(self._failed_scans) >= FAILURE_THRESHOLD
            if not _is_machine_fault(error) and not too_many_failures and self._probe_succeeds(probe):
                return True
            if self._closed:
                self._closed = False
                self._back_off()
            return False

    def record_success(self) -> None:
        """Films were read and written: whatever ailed this worker is over."""
        if self._delay or self._failed_scans:
            with self._lock:
                self._failed_scans.clear()
                if self._closed:
                    self._delay = 0.0

    def _probe_succeeds(self, probe: Callable[[], object]) -> bool:
        try:
            probe()
        except ShuttingDown:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, this worker cannot read, and must live on
            log.error("this worker cannot read even a blank film", error=type(error).__name__)
            return False
        return True

    def _back_off(self) -> None:
        self._delay = min(max(2 * self._delay, FIRST_PROBE_DELAY), LAST_PROBE_DELAY)
        log.error("this worker cannot read now; films wait, or go to others", again_in_seconds=self._delay)


def _is_machine_fault(error: Exception) -> bool:
    """No film can be at fault: those are read in children, whose troubles are told as reasons. Memory is short, no
    process can be started, the database takes no writes as it has become a standby, ..."""
    return is_out_of_memory(error) or isinstance(error, OSError | InternalError)
