"""The pulse of a process: what each of its parts does, and when it last got something done, written down as it lives.

A timer alone would prove that a thread lives. So a part promises: each thing that it does again and again (a rescan, a
sweep) or has in hand (films) moves within so many seconds, or it is stuck; its heartbeat says how long ago each moved.
Ages are measured by the process' own monotonic clock and times are the database's, so clocks that differ, or are set,
disturb nothing.
"""

import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final

from prometheus_client.registry import Collector
from sqlalchemy import Connection, delete

from db.dialect import clock, replace_rows
from db.models import Heartbeat
from db.session import Database
from pneumowatch.logs import get
from pneumowatch.metrics import DONE, Family

log = get("pulse")

HEARTBEATS: Final[Any] = Heartbeat.__table__
BEAT_SECONDS: Final = 5.0
CLOSE_SECONDS: Final = 2.0  # the end of a process waits no longer for a database that hangs
FORGET: Final = timedelta(days=1)  # a part that was killed and never came back


class Part:
    """One part of a process, as it tells of itself. Safe for its threads; costs no more than a lock.

    A part that nobody listens to (made by itself) may be told everything as well.
    """

    def __init__(self, kind: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.kind = kind
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._state = self._busy = "starting"
        self._started = self._progress = monotonic()
        self._owed: dict[str, tuple[float, float]] = {}  # duty -> when it last moved, within how many seconds again
        self._done: Counter[str] = Counter()

    def say(self, state: str, busy: str | None = None) -> None:
        """What it is at, in a word or two; `busy`: while it owes anything. No names of films."""
        with self._lock:
            self._state, self._busy = state, busy or state

    def did(self, **counts: int) -> None:
        """Got something done: `films=3`."""
        with self._lock:
            self._done.update(counts)
            self._progress = self._monotonic()

    def promise(self, duty: str, seconds: float) -> None:
        """This has just moved, and will again within so many seconds."""
        with self._lock:
            self._owed[duty] = self._monotonic(), seconds

    def keep(self, duty: str) -> None:
        """This is done; nothing more is owed."""
        with self._lock:
            self._owed.pop(duty, None)

    @contextmanager
    def holding(self, duty: str, seconds: float) -> Iterator[Callable[[], None]]:
        """This is in hand until it is left; what it gives is to be called whenever it has moved."""
        self.promise(duty, seconds)
        try:
            yield lambda: self.promise(duty, seconds)
        finally:
            self.keep(duty)

    @property
    def done(self) -> dict[str, int]:
        with self._lock:
            return dict(self._done)

    def row(self, at: Any) -> dict[str, Any]:
        """Its heartbeat, at a time by the database's clock."""
        with self._lock:
            moment = self._monotonic()
            owed = {
                duty: {"moved": round(moment - since, 3), "within": within}
                for duty, (since, within) in self._owed.items()
            }
            return {
                "part": f"{self.kind}@{socket.gethostname()}:{os.getpid()}",
                "kind": self.kind,
                "machine": socket.gethostname(),
                "pid": os.getpid(),
                "state": self._busy if owed else self._state,
                "started_at": at - timedelta(seconds=moment - self._started),
                "progress_at": at - timedelta(seconds=moment - self._progress),
                "beat_at": at,
                "owed": owed,
                "done": dict(self._done),
            }


class Pulse(Collector):
    """Writes the heartbeats of a process' parts, in a thread of its own that nothing else waits for.

    A database that does not answer costs beats and nothing else: no other thread, no error in the parts.
    """

    def __init__(self, database: Database, seconds: float = BEAT_SECONDS) -> None:
        # one that does not wait an outage out: by the time it is over, the beat is no longer true
        self._database = Database(database.engine.url.render_as_string(hide_password=False))
        self._seconds = seconds
        self._parts: list[Part] = []
        self._wake, self._ended = threading.Event(), False
        self._failing = False
        self.broken = False  # set by whoever ends because something is wrong
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def part(self, kind: str) -> Part:
        """One more part, whose heartbeat is written at once and from now on."""
        part = Part(kind)
        self._parts.append(part)
        self._wake.set()
        return part

    def collect(self) -> Iterator[Family]:
        """What each part got done, for the metrics of this process."""
        done = {part.kind: part.done for part in list(self._parts)}
        yield DONE.family({(kind, what): count for kind, counts in done.items() for what, count in counts.items()})

    def start(self) -> None:
        self._thread.start()

    def close(self, clean: bool) -> None:
        """Beat no more. After a clean end nothing is left of the parts; else it is to be seen that they are gone."""
        self._ended = True
        self._wake.set()
        self._thread.join(CLOSE_SECONDS)
        if clean and not self._thread.is_alive():
            farewell = threading.Thread(target=self._attempt, args=(self._leave,), name="farewell", daemon=True)
            farewell.start()
            farewell.join(CLOSE_SECONDS)
        if not self._thread.is_alive():
            self._database.close()

    def _run(self) -> None:
        while not self._ended:
            self._wake.clear()
            if self._parts:
                self._attempt(self._beat)
            self._wake.wait(self._seconds)

    def _attempt(self, work: Callable[[Connection], Any]) -> None:
        try:
            self._database.write(work)
        except Exception as error:  # noqa: BLE001 - whatever keeps it from being written, the parts must go on
            if not self._failing:
                log.warning("no heartbeat can be written; the work goes on", error=type(error).__name__)
            self._failing = True
        else:
            self._failing = False

    def _beat(self, connection: Connection) -> None:
        at = clock(connection)
        replace_rows(connection, HEARTBEATS, [part.row(at) for part in list(self._parts)])
        connection.execute(delete(HEARTBEATS).where(HEARTBEATS.c.beat_at < at - FORGET))

    def _leave(self, connection: Connection) -> None:
        names = [part.row(clock(connection))["part"] for part in self._parts]
        connection.execute(delete(HEARTBEATS).where(HEARTBEATS.c.part.in_(names)))


@contextmanager
def beating(database: Database) -> Iterator[Pulse]:
    """The pulse of this process until this is left; where that is by an exception, or broken, it stays to be seen."""
    pulse = Pulse(database)
    pulse.start()
    try:
        yield pulse
    except BaseException as error:
        pulse.close(clean=isinstance(error, KeyboardInterrupt))  # Ctrl-C while it starts is an end that was asked for
        raise
    pulse.close(clean=not pulse.broken)
