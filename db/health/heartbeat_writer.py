"""The pulse of a process: what each of its parts does, and when it last got something done, written down as it lives.

A timer alone would prove that a thread lives. So a part promises: each thing that it does again and again (a rescan, a
sweep) or has in hand (films) moves within so many seconds, or it is stuck; its heartbeat says how long ago each moved.
Ages are measured by the process' own monotonic clock and times are the database's, so clocks that differ, or are set,
disturb nothing.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final

from prometheus_client.registry import Collector
from sqlalchemy import Connection, delete

from db.dialect import database_now, upsert_rows
from db.health.heartbeats import HEARTBEATS
from db.session import Database
from pneumowatch.component import Component
from pneumowatch.logs import get_logger
from pneumowatch.metrics import WORK_DONE, Family

log = get_logger("heartbeats")

BEAT_SECONDS: Final = 5.0
CLOSE_SECONDS: Final = 2.0  # the end of a process waits no longer for a database that hangs
HEARTBEAT_EXPIRY: Final = timedelta(days=1)  # a part that was killed and never came back


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
        self._thread = threading.Thread(target=self._run, name="heartbeats", daemon=True)

    def add_component(self, kind: str) -> Component:
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
            deletion = threading.Thread(
                target=self._try_write, args=(self._delete_rows,), name="heartbeat-deletion", daemon=True
            )
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
