"""Report what a component of a process does and when it last made progress; `db.health.heartbeat_writer` writes it."""

import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any


class Component:
    """The health of one component of a process, as it reports it. Thread-safe; a call costs no more than a lock.

    A component without a heartbeat writer accepts all calls, too.
    """

    def __init__(self, kind: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.kind = kind
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._state = self._busy_state = "starting"
        self._started_at = self._progress_at = monotonic()
        # activity -> time of its last progress, seconds within which the next is due
        self._expectations: dict[str, tuple[float, float]] = {}
        self._done: Counter[str] = Counter()

    def set_status(self, state: str, busy_state: str | None = None) -> None:
        """Set the state in a word or two; `busy_state` holds while progress is expected. Never pass names of files."""
        with self._lock:
            self._state, self._busy_state = state, busy_state or state

    def record_progress(self, **counts: int) -> None:
        """Record finished work, in counts such as `images=3`."""
        with self._lock:
            self._done.update(counts)
            self._progress_at = self._monotonic()

    def expect_within(self, activity: str, seconds: float) -> None:
        """Record progress of an activity now, and expect the next within `seconds`."""
        with self._lock:
            self._expectations[activity] = self._monotonic(), seconds

    def clear_expectation(self, activity: str) -> None:
        """Record that an activity has ended: no further progress is expected."""
        with self._lock:
            self._expectations.pop(activity, None)

    @contextmanager
    def expecting(self, activity: str, seconds: float) -> Iterator[Callable[[], None]]:
        """Expect progress of an activity until the context ends. Yields a function to call at each progress."""
        self.expect_within(activity, seconds)
        try:
            yield lambda: self.expect_within(activity, seconds)
        finally:
            self.clear_expectation(activity)

    @property
    def done(self) -> dict[str, int]:
        with self._lock:
            return dict(self._done)

    def row(self, at: Any) -> dict[str, Any]:
        """Return the heartbeat as a row; `at` is the time by the database's clock."""
        with self._lock:
            now = self._monotonic()
            expectations = {
                activity: {"idle_seconds": round(now - last_progress, 3), "within_seconds": within_seconds}
                for activity, (last_progress, within_seconds) in self._expectations.items()
            }
            return {
                "component": f"{self.kind}@{socket.gethostname()}:{os.getpid()}",
                "kind": self.kind,
                "machine": socket.gethostname(),
                "pid": os.getpid(),
                "state": self._busy_state if expectations else self._state,
                "started_at": at - timedelta(seconds=now - self._started_at),
                "progress_at": at - timedelta(seconds=now - self._progress_at),
                "beat_at": at,
                "expectations": expectations,
                "done": dict(self._done),
            }
