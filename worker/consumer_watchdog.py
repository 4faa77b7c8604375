"""Detect a stalled consumer: the worker is connected, messages wait on the broker, and it receives none.

Celery is known to stall after a lost connection to Redis (celery#8030 and similar), and nothing in the process reports
it. So it is detected from outside: the broker holds waiting messages, this worker processes nothing, and no message has
come for a while. First the consumer reconnects. If that does not help, the process exits, and its supervisor restarts
it. It holds no claim then, so nothing is lost.
"""

import os
import threading
import time
from collections.abc import Callable
from typing import Final

from pneumowatch.errors import BrokerUnavailable
from pneumowatch.logs import get_logger

log = get_logger("worker")

MIN_STALL_SECONDS: Final = 10.0  # longer than the longest reconnect delay of a consumer
CHECKS_PER_STALL: Final = 5  # checks within the time after which a consumer counts as stalled


def stall_timeout(lease_seconds: float) -> float:
    """Return the seconds that a worker may receive nothing while messages wait."""
    return max(MIN_STALL_SECONDS, lease_seconds / 4)


class ConsumerWatchdog:
    """Reconnects a stalled consumer, and ends the process where that does not help.

    Args:
        waiting: how many messages wait on the broker or in this worker's buffer; raises BrokerUnavailable.
        received: how many messages this worker has received since it started.
        busy: whether any of them is being processed now.
        reconnect: requests a new connection; must not wait for it.
        stall_seconds: a consumer counts as stalled after this time.
        exit_process: ends the process at once.
    """

    def __init__(
        self,
        waiting: Callable[[], int],
        received: Callable[[], int],
        busy: Callable[[], bool],
        reconnect: Callable[[], None],
        stall_seconds: float,
        exit_process: Callable[[], None] = lambda: os._exit(os.EX_TEMPFAIL),
    ) -> None:
        self._waiting, self._received, self._busy = waiting, received, busy
        self._reconnect, self._exit_process = reconnect, exit_process
        self._stall_seconds = stall_seconds
        self._last_received = -1
        self._stalled_since: float | None = None  # when it was first seen to receive nothing (monotonic seconds)
        self._reconnected = False

    def run(self, stop: threading.Event) -> None:
        """Check again and again until `stop` is set."""
        while not stop.wait(self._stall_seconds / CHECKS_PER_STALL):
            self.check(time.monotonic())

    def check(self, now: float) -> None:
        """Check once, at the monotonic time `now`, and recover where the consumer has stalled for long enough."""
        if self._is_receiving():
            self._stalled_since = None
        elif self._stalled_since is None:
            self._stalled_since = now
        elif now - self._stalled_since >= self._stall_seconds:
            self._recover()
            self._stalled_since = None

    def _is_receiving(self) -> bool:
        """Tell whether messages come, are being processed, or none wait. An unreachable broker counts as none."""
        received = self._received()
        if self._busy() or received != self._last_received:
            self._last_received, self._reconnected = received, False
            return True
        try:
            return self._waiting() == 0
        except BrokerUnavailable:
            return True

    def _recover(self) -> None:
        if self._reconnected:
            log.error("still no message is received; exiting so that the supervisor restarts this worker")
            self._exit_process()
            return
        log.warning("messages wait but none is received; reconnecting", stall_seconds=self._stall_seconds)
        self._reconnected = True
        self._reconnect()
