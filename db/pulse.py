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

from db.dialect import database_now, upsert_rows
from db.models import Heartbeat
from db.session import Database
from pneumowatch.logs import get_logger
from pneumowatch.metrics import WORK_DONE, Family

log = get_logger("pulse")

HEARTBEATS: Final[Any] = Heartbeat.__table__
BEAT_SECONDS: Final = 5.0
CLOSE_SECONDS: Final = 2.0  # the end of a process waits no longer for a database that hangs
HEARTBEAT_EXPIRY: Final = timedelta(days=1)  # a part that was killed and never came back


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


class HeartbeatWriter(Collector):
    """Writes the heartbeats of a process' parts, in a thread of its own that nothing else waits for.

    A database that does not answer costs beats and nothing else: no other thread, no error in the parts.
    """

    def __init__(self, database: Database, seconds: float = BEAT_SECONDS) -> None:
        # one that does not wait an outage out: by the time it is over, the beat is no longer true
        self._database = Database(database.engine.url.render_as_string(hide_password=False))
        self._seconds = seconds
        self._components: list[Component] = []
        self._wake, self._stopping = threading.Event(), False
        self._failing = False
        self.failed = False  # set by whoever ends because something is wrong
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def component(self, kind: str) -> Component:
        """One more part, whose heartbeat is written at once and from now on."""
        component = Component(kind)
        self._components.append(component)
        self._wake.set()
        return component

    def collect(self) -> Iterator[Family]:
        """What each part got done, for the metrics of this process."""
        done = {component.kind: component.done for component in list(self._components)}
        yield WORK_DONE.family({(kind, what): count for kind, counts in done.items() for what, count in counts.items()})

    def start(self) -> None:
        self._thread.start()

    def close(self, clean: bool) -> None:
        """Beat no more. After a clean end nothing is left of the parts; else it is to be seen that they are gone."""
        self._stopping = True
        self._wake.set()
        self._thread.join(CLOSE_SECONDS)
        if clean and not self._thread.is_alive():
            deletion = threading.Thread(target=self._try_write, args=(self._delete_rows,), name="farewell", daemon=True)
            deletion.start()
            deletion.join(CLOSE_SECONDS)
        if not self._thread.is_alive():
            self._database.close()

    def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            if self._components:
                self._try_write(self._write_rows)
            self._wake.wait(self._seconds)

    def _try_write(self, work: Callable[[Connection], Any]) -> None:
        try:
            self._database.write(work)
        except Exception as error:  # noqa: BLE001 - whatever keeps it from being written, the parts must go on
            if not self._failing:
                log.warning("no heartbeat can be written; the work goes on", error=type(error).__name__)
            self._failing = True
        else:
            self._failing = False

    def _write_rows(self, connection: Connection) -> None:
        at = database_now(connection)
        upsert_rows(connection, HEARTBEATS, [component.row(at) for component in list(self._components)])
        connection.execute(delete(HEARTBEATS).where(HEARTBEATS.c.beat_at < at - HEARTBEAT_EXPIRY))

    def _delete_rows(self, connection: Connection) -> None:
        names = [component.row(database_now(connection))["component"] for component in self._components]
        connection.execute(delete(HEARTBEATS).where(HEARTBEATS.c.component.in_(names)))


@contextmanager
def writing_heartbeats(database: Database) -> Iterator[HeartbeatWriter]:
    """The pulse of this process until this is left; where that is by an exception, or broken, it stays to be seen."""
    writer = HeartbeatWriter(database)
    writer.start()
    try:
        yield writer
    except BaseException as error:
        writer.close(clean=isinstance(error, KeyboardInterrupt))  # Ctrl-C while it starts is an end that was asked for
        raise
    writer.close(clean=not writer.failed)
