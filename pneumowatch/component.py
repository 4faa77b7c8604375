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
    """One part of a process, as it tells of itself. Safe for its threads; costs no more than a lock.

    A part that nobody listens to (made by itself) may be told everything as well.
    """

    def __init__(self, kind: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.kind = kind
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._state = self._busy_state = "starting"
        self._started_at = self._progress_at = monotonic()
        self._expectations: dict[
            str, tuple[float, float]
        ] = {}  # duty -> when it last moved, within how many seconds again
        self._done: Counter[str] = Counter()

    def set_status(self, state: str, busy_state: str | None = None) -> None:
        """What it is at, in a word or two; `busy_state`: while it owes anything. No names of films."""
        with self._lock:
            self._state, self._busy_state = state, busy_state or state

    def record_progress(self, **counts: int) -> None:
        """Got something done: `films=3`."""
        with self._lock:
            self._done.update(counts)
            self._progress_at = self._monotonic()

    def expect_within(self, activity: str, seconds: float) -> None:
        """This has just moved, and will again within so many seconds."""
        with self._lock:
            self._expectations[activity] = self._monotonic(), seconds

    def clear_expectation(self, activity: str) -> None:
        """This is done; nothing more is owed."""
        with self._lock:
            self._expectations.pop(activity, None)

    @contextmanager
    def expecting(self, activity: str, seconds: float) -> Iterator[Callable[[], None]]:
        """This is in hand until it is left; what it gives is to be called whenever it has moved."""
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
        """Its heartbeat, at a time by the database's clock."""
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
