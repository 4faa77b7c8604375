"""Engines and transactions for SQLite and PostgreSQL, and what happens during an outage.

While the database cannot be reached, the thread that needs it blocks and retries with back-off, until the database
answers or shutdown is requested. If the call returned or raised instead, a worker would consume the broker's messages
within seconds without processing a scan.
"""

import sqlite3
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError

from pneumowatch.errors import DatabaseUnavailable, SettingsError, ShuttingDown
from pneumowatch.logs import get_logger

T = TypeVar("T")
log = get_logger("db")

BUSY_SECONDS: Final = 30  # how long SQLite waits for another writer before it fails as "locked"
CONNECT_SECONDS: Final = 5
# A machine that disappears closes no connection: without keepalives, a client would wait two hours for its answer.
KEEPALIVES: Final = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 25_000}
FIRST_RETRY_SECONDS: Final = 0.1  # doubled up to LONGEST_RETRY_SECONDS
LONGEST_RETRY_SECONDS: Final = 5.0
IMMEDIATE_RETRIES: Final = 3  # retries of a transient error before it counts as an outage
# https://www.postgresql.org/docs/current/errcodes-appendix.html
DEADLOCK: Final = "40P01"
UNDEFINED_TABLE: Final = "42P01"


class Database:
    """A database that any number of threads may use.

    Args:
        url: SQLAlchemy URL of SQLite or PostgreSQL.
        stop: set at shutdown. With it, `read` and `write` wait until an outage ends. Without it they raise
            DatabaseUnavailable, as a command at a terminal should.
    """

    def __init__(self, url: str, stop: threading.Event | None = None) -> None:
        self.engine = _engine(url)
        # A command drops its database when it ends; Python 3.13 warns of each connection that is left to the collector.
        weakref.finalize(self, self.engine.dispose).atexit = False
        self._stop = stop
        self._snapshot = self.engine.execution_options(sqlite_begin="BEGIN DEFERRED")

    @property
    def dialect(self) -> str:
        return self.engine.dialect.name

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one transaction and commit it.

        `work` may run again after an outage or a deadlock, when it may have been committed already. So it must be a
        compare-and-set: running it twice must have the effect of running it once.
        """
        return self._run_with_retries(self.engine, work)

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction that takes no write lock."""
        return self._run_with_retries(self._snapshot, work)

    def close(self) -> None:
        self.engine.dispose()

    def _run_with_retries(self, engine: Engine, work: Callable[[Connection], T]) -> T:
        delay, failures = 0.0, 0
        while True:
            try:
                with engine.begin() as connection:
                    result = work(connection)
            except DBAPIError as error:
                if not _is_outage(error):
                    raise
                failures += 1
                if failures > IMMEDIATE_RETRIES or not _is_transient(error):
                    delay = self._back_off(error, delay)
            else:
                if delay:
                    log.info("database answers again")
                return result

    def _back_off(self, error: DBAPIError, delay: float) -> float:
        kind = type(error.orig).__name__
        if self._stop is None:
            raise DatabaseUnavailable(
                f"The database does not answer ({kind}); see `pneumowatch doctor`, or run `pneumowatch db upgrade` if "
                "the database is new."
            ) from error
        if not delay:
            log.warning("database does not answer; waiting for it", error=kind)
        delay = min(max(delay * 2, FIRST_RETRY_SECONDS), LONGEST_RETRY_SECONDS)
        if self._stop.wait(delay):
            raise ShuttingDown("Shutdown was requested while the database did not answer.") from error
        return delay


def _is_outage(error: DBAPIError) -> bool:
    """Tell whether the database is unreachable, or has no tables yet because a backup is being restored into it."""
    unreachable = isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated
    return unreachable or _sqlstate(error) == UNDEFINED_TABLE


def _is_transient(error: DBAPIError) -> bool:
    """Tell whether a retry may succeed at once: after a deadlock, or on a new connection after one broke."""
    return error.connection_invalidated or _sqlstate(error) == DEADLOCK


def _sqlstate(error: DBAPIError) -> str | None:
    return getattr(error.orig, "sqlstate", None)


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
        name = parsed.get_backend_name()
        if name == "sqlite":
            return _sqlite(url)
        if name == "postgresql":
            return create_engine(
                parsed.set(drivername="postgresql+psycopg"),
                connect_args={
                    "connect_timeout": CONNECT_SECONDS,
                    "options": "-c timezone=UTC",
                    **{name: value for name, value in KEEPALIVES.items() if name not in parsed.query},
                },
                pool_size=10,
                hide_parameters=True,
            )
    except (ArgumentError, NoSuchModuleError):
        pass
    raise SettingsError("PNEUMOWATCH_DATABASE_URL is no URL of SQLite or PostgreSQL (sqlite:///..., postgresql://...).")


def _sqlite(url: str) -> Engine:
    connect_args = {"timeout": BUSY_SECONDS, "check_same_thread": False}
    # otherwise errors quote the parameters of statements, among them paths
    engine = create_engine(url, connect_args=connect_args, pool_size=10, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver must not begin transactions itself
        connection.create_function("unhex", 1, bytes.fromhex, deterministic=True)  # built into SQLite since 3.41
        cursor = connection.cursor()
        _use_wal(cursor)
        cursor.execute("PRAGMA synchronous=FULL")  # a commit that was reported to a reader survives a power cut
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # IMMEDIATE takes the write lock at once: a later upgrade of the lock fails as "locked" without waiting
        connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN IMMEDIATE"))

    return engine


def _use_wal(cursor: Any) -> None:
    """Switch the file to WAL mode, with retries.

    SQLite's busy timeout does not apply to the first switch to WAL while another process does the same.
    """
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
        time.sleep(FIRST_RETRY_SECONDS)
