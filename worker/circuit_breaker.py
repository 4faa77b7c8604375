"""Detect that this worker itself is faulty, so that its own failure never counts as an attempt for a scan."""

import threading
from collections.abc import Callable
from typing import Final

from sqlalchemy.exc import InternalError

from pneumowatch.errors import ShuttingDown
from pneumowatch.logs import get_logger
from worker.inference.adaptive_batch import is_out_of_memory

log = get_logger("worker")

FIRST_PROBE_DELAY: Final = 1.0  # seconds until a faulty worker is probed again; doubled until a scan was processed
LAST_PROBE_DELAY: Final = 60.0
BREAKER_CHECK_SECONDS: Final = 0.2
FAILURE_THRESHOLD: Final = 3  # different scans, each processed alone, that fail in a row: the worker is at fault


class CircuitBreaker:
    """Decides after an error whether a scan or the worker is at fault, and stops claims while the worker is.

    A scan at fault is found by processing it alone; other scans are processed meanwhile. A worker at fault (its device
    is full or broken) can process none: then scans must not be blamed, nor be claimed away from healthy workers.

    Args:
        stop: set at shutdown; ends every wait.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._lock = threading.Lock()
        self._probe_lock = threading.Lock()  # a lock of its own: releasing a claim must not wait for a probe
        self._closed = True
        self._delay = 0.0
        self._failed_scans: set[int] = set()  # quarantined scans that failed since the last success

    def wait(self, probe: Callable[[], object]) -> None:
        """Wait until scans may be claimed: at once while this worker is healthy, else until `probe` succeeds.

        Probes are repeated with growing delays. Raises ShuttingDown.
        """
        if self._closed:
            return
        with self._probe_lock:  # one thread probes; the others wait for it
            while not self._closed:
                if self._stop.wait(self._delay):
                    raise ShuttingDown("Shutdown was requested while this worker could not process scans.")
                succeeded = self._probe_succeeds(probe)
                with self._lock:
                    if succeeded:
                        self._closed = True
                        log.info("this worker processes scans again")
                    else:
                        self._back_off()

    def watch_health(self, probe: Callable[[], object], on_change: Callable[[bool], None]) -> None:
        """Call `on_change(False)` whenever this worker becomes faulty, and `on_change(True)` once a probe succeeds.

        Returns at shutdown.
        """
        while not self._stop.wait(BREAKER_CHECK_SECONDS):
            if not self._closed:
                on_change(False)
                try:
                    self.wait(probe)
                except ShuttingDown:
                    return
                on_change(True)

    def record_failure(self, error: Exception, quarantined: int | None, probe: Callable[[], object]) -> bool:
        """Tell whether an error counts as an attempt of the scans. Where not, this worker counts as faulty from now on.

        Args:
            quarantined: the scan's id, where one was processed alone.
            probe: classifies an image that any healthy worker can classify; raises where this one cannot.
        """
        with self._lock:
            if quarantined is not None:
                self._failed_scans.add(quarantined)
            # scans that failed together are only quarantined: that costs them nothing and finds the bad one
            too_many_failures = quarantined is not None and len(self._failed_scans) >= FAILURE_THRESHOLD
            if not _is_machine_fault(error) and not too_many_failures and self._probe_succeeds(probe):
                return True
            if self._closed:
                self._closed = False
                self._back_off()
            return False

    def record_success(self) -> None:
        """Note that scans were processed and written: this worker is healthy."""
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
        except Exception as error:  # noqa: BLE001 - any error means a faulty worker; it must live on to recover
            log.error("this worker cannot classify even a blank image", error=type(error).__name__)
            return False
        return True

    def _back_off(self) -> None:
        self._delay = min(max(2 * self._delay, FIRST_PROBE_DELAY), LAST_PROBE_DELAY)
        log.error("this worker cannot process scans; they wait or go to others", again_in_seconds=self._delay)


def _is_machine_fault(error: Exception) -> bool:
    """Tell whether an error can only come from this machine or the database, not from a scan.

    Examples: memory is short, no process can be started, the database has become a read-only standby. A bad file raises
    none of these here, because files are decoded in child processes and their faults are returned as reasons.
    """
    return is_out_of_memory(error) or isinstance(error, OSError | InternalError)
