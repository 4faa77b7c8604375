"""A worker that is connected but deaf: it lives, messages wait on the broker, and it takes none of them.

Known of Celery after a lost connection to Redis (celery#8030 and its like), and nothing in the process says so. So it
is told by what can be seen from outside: the broker holds messages that nobody has taken, this worker reads nothing,
and none has come for a while. First its consumer is built anew; where even that is not heard, the process ends, for its
supervisor to start it again. It has nothing in hand then that could be lost.
"""

import os
import threading
import time
from collections.abc import Callable
from typing import Final

from pneumowatch.errors import BrokerUnavailable
from pneumowatch.logs import get_logger

log = get_logger("worker")

MIN_STALL_SECONDS: Final = 10.0  # longer than a consumer waits before it tries to reach the broker again
CHECKS_PER_STALL: Final = 5  # within the time after which it counts as deaf


def stall_timeout(lease_seconds: float) -> float:
    """Seconds that a worker may hear nothing while messages wait."""
    return max(MIN_STALL_SECONDS, lease_seconds / 4)


class ConsumerWatchdog:
    """
    Args:
        waiting: how many messages wait on the broker or, unread, in this worker; raises BrokerUnavailable.
        received: how many messages have come to this worker since it started.
        busy: whether any of them is being read now.
        reconnect: asks for a new consumer; must not wait for it.
        stall_seconds: after this long it is deaf.
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
        self._stalled_since: float | None = None  # when it was first seen to hear nothing
        self._reconnected = False

    def run(self, stop: threading.Event) -> None:
        """Look again and again until `stop` is set."""
        while not stop.wait(self._stall_seconds / CHECKS_PER_STALL):
            self.check(time.monotonic())

    def check(self, now: float) -> None:
        if self._is_receiving():
            self._stalled_since = None
        elif self._stalled_since is None:
            self._stalled_since = now
        elif now - self._stalled_since >= self._stall_seconds:
            self._recover()
            self._stalled_since = None

    def _is_receiving(self) -> bool:
        """Or has nothing to hear."""
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
            log.error("still no message comes; ending, to be started again")
            self._exit_process()
            return
        log.warning("messages wait and none comes; listening anew", stall_seconds=self._stall_seconds)
        self._reconnected = True
        self._reconnect()
