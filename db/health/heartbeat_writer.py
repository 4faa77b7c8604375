"""Write the heartbeats of a process: the state of each component, and when it last made progress.

A timer alone would prove only that a thread runs. So a component declares its activities, either repeated ones (a
rescan, a sweep) or work in hand (scans), and the seconds within which each makes progress; otherwise it is stuck. Its
heartbeat reports how long ago each made progress. Ages are measured by the process's own monotonic clock and times are
the database's, so clocks may differ or be set.
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
CLOSE_SECONDS: Final = 2.0  # a process that ends waits no longer for a database that hangs
HEARTBEAT_EXPIRY: Final = timedelta(days=1)  # rows of components that were killed and never restarted are older


class HeartbeatWriter(Collector):
    """Writes the heartbeats of a process's components, in a thread of its own that nothing else waits for.

    A database that does not answer costs heartbeats and nothing else: it blocks no other thread and raises no error in
    the components.
    """

    def __init__(self, database: Database, seconds: float = BEAT_SECONDS) -> None:
        # one that does not wait until an outage ends: by then the heartbeat is outdated
        self._database = Database(database.engine.url.render_as_string(hide_password=False))
        self._seconds = seconds
        self._components: list[Component] = []
        self._wake, self._stopping = threading.Event(), False
        self._failing = False
        self.failed = False  # set by a component that ends because of an error
        self._thread = threading.Thread(target=self._run, name="heartbeats", daemon=True)

    def add_component(self, kind: str) -> Component:
        """Add a component, whose heartbeat is written at once and from now on."""
        component = Component(kind)
        self._components.append(component)
        self._wake.set()
        return component

    def collect(self) -> Iterator[Family]:
        """Yield the work done by each component, for the metrics of this process."""
        done = {component.kind: component.done for component in list(self._components)}
        yield WORK_DONE.family({(kind, what): count for kind, counts in done.items() for what, count in counts.items()})

    def start(self) -> None:
        self._thread.start()

    def close(self, clean: bool) -> None:
        """Stop writing heartbeats.

        After a clean end the rows are deleted. Otherwise they stay, so that the components are seen to be gone.
        """
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
        except Exception as error:  # noqa: BLE001 - whatever the error, the components must go on
            if not self._failing:
                log.warning("heartbeats cannot be written; the work goes on without them", error=type(error).__name__)
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
    """Write the heartbeats of this process until the context ends.

    If it ends by an exception, or `failed` is set, the rows stay.
    """
    writer = HeartbeatWriter(database)
    writer.start()
    try:
        yield writer
    except BaseException as error:
        writer.close(clean=isinstance(error, KeyboardInterrupt))  # Ctrl-C while it starts is a requested end
        raise
    writer.close(clean=not writer.failed)
