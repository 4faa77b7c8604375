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

from pneumowatch.errors import BrokerAway
from pneumowatch.logs import get

log = get("worker")

FEWEST_SECONDS: Final = 10.0  # longer than a consumer waits before it tries to reach the broker again
LOOKS: Final = 5  # within the time after which it counts as deaf


def patience(lease_seconds: float) -> float:
    """Seconds that a worker may hear nothing while messages wait."""
    return max(FEWEST_SECONDS, lease_seconds / 4)


class Hearing:
    """
    Args:
        waiting: how many messages wait on the broker or, unread, in this worker; raises BrokerAway.
        heard: how many messages have come to this worker since it started.
        busy: whether any of them is being read now.
        rebuild: asks for a new consumer; must not wait for it.
        seconds: after this long it is deaf.
        end: ends the process at once.
    """

    def __init__(
        self,
        waiting: Callable[[], int],
        heard: Callable[[], int],
        busy: Callable[[], bool],
        rebuild: Callable[[], None],
        seconds: float,
        end: Callable[[], None] = lambda: os._exit(os.EX_TEMPFAIL),
    ) -> None:
        self._waiting, self._heard, self._busy = waiting, heard, busy
        self._rebuild, self._end = rebuild, end
        self._seconds = seconds
        self._last = -1
        self._since: float | None = None  # when it was first seen to hear nothing
        self._rebuilt = False

    def run(self, stop: threading.Event) -> None:
        """Look again and again until `stop` is set."""
        while not stop.wait(self._seconds / LOOKS):
            self.look(time.monotonic())

    def look(self, moment: float) -> None:
        if self._hears():
            self._since = None
        elif self._since is None:
            self._since = moment
        elif moment - self._since >= self._seconds:
            self._cure()
            self._since = None

    def _hears(self) -> bool:
        """Or has nothing to hear."""
        heard = self._heard()
        if self._busy() or heard != self._last:
            self._last, self._rebuilt = heard, False
            return True
        try:
            return self._waiting() == 0
        except BrokerAway:
            return True

    def _cure(self) -> None:
        if self._rebuilt:
            log.error("still no message comes; ending, to be started again")
            self._end()
            return
        log.warning("messages wait and none comes; listening anew", seconds=self._seconds)
        self._rebuilt = True
        self._rebuild()
