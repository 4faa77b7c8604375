"""A database that does not answer: long-running components wait for it, commands at a terminal report it."""

import os
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text
from support.ledger_driver import LedgerDriver, file_version, run_concurrently
from support.services import Server, ServiceMissing, connect, postgres_server
from support.waiting import eventually

from db import schema
from db.session import Database
from pneumowatch.errors import DatabaseUnavailable, SettingsError, ShuttingDown

SECONDS = 60.0


class Stop(threading.Event):
    """Set at shutdown; counts how often the code waited for a database that was down."""

    waits = 0

    def wait(self, timeout: float | None = None) -> bool:
        self.waits += 1
        return super().wait(timeout)


@contextmanager
def in_thread(work: Any) -> Iterator[list[Any]]:
    """Run `work` beside the block; its result, or its exception, is in the list once the block has been left."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as fault:  # noqa: BLE001 - handed to the test
            results.append(fault)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield results
    finally:
        thread.join(SECONDS)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def own_postgres(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A PostgreSQL for this module, which stops and starts it."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(postgres_server())
        except ServiceMissing:
            request.getfixturevalue("postgres_url")  # skips, or fails where it must be there
            raise
        with closing(Database(server.url)) as database:
            schema.upgrade(database)
        yield server


def test_a_locked_sqlite_is_waited_for(sqlite_url: str, tmp_path: Path) -> None:
    with closing(Database(sqlite_url)) as database:
        ledger = LedgerDriver(database)
        with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with in_thread(lambda: ledger.register(file_version())) as results:
                time.sleep(0.3)  # SQLite waits within itself, and tells nobody
                assert results == []
                assert ledger.states() == {}  # readers are not kept waiting
                other.execute("COMMIT")
        (result,) = results
        assert len(result.to_announce) == 1


def test_a_sqlite_locked_for_longer_than_its_patience(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.session.BUSY_SECONDS", 0.05)
    with (
        closing(Database(sqlite_url)) as command,
        closing(Database(sqlite_url, stop := Stop())) as part,
        closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseUnavailable):
            LedgerDriver(command).register(file_version())
        with in_thread(lambda: LedgerDriver(part).register(file_version())) as results:
            eventually(lambda: stop.waits >= 2)
            assert results == []
            other.execute("COMMIT")
        assert len(results[0].to_announce) == 1


def test_a_sqlite_opened_by_many_at_once(tmp_path: Path) -> None:
    """The first connection sets the journal mode."""
    url = f"sqlite:///{tmp_path / 'new.db'}"
    with ExitStack() as stack:
        databases = [stack.enter_context(closing(Database(url))) for _ in range(8)]
        ones = run_concurrently(*(lambda d=d: d.write(lambda c: c.scalar(text("SELECT 1"))) for d in databases))
    assert ones == [1] * 8


def test_writers_in_many_threads_lose_nothing(database: Database) -> None:
    ledger = LedgerDriver(database)
    run_concurrently(*(lambda n=n: [ledger.register(file_version(f"{n}-{i}")) for i in range(10)] for n in range(5)))
    assert len(ledger.states()) == 50


def test_a_write_that_raises_leaves_nothing(database: Database) -> None:
    ledger = LedgerDriver(database)

    def work(connection: Connection) -> None:
        connection.execute(text("UPDATE scans SET state = 'failed'"))
        raise KeyError("a fault in the program, which is no outage")

    (scan_id,) = ledger.add(file_version())
    with pytest.raises(KeyError):
        database.write(work)
    assert ledger.state(scan_id) == "queued"


def test_a_postgres_outage_is_waited_for(own_postgres: Server) -> None:
    stop = Stop()
    with closing(Database(own_postgres.url, stop)) as database:
        ledger = LedgerDriver(database)
        (before,) = ledger.add(file_version("before"))
        own_postgres.stop()
        with in_thread(lambda: ledger.register(file_version("during"))) as results:
            eventually(lambda: stop.waits >= 2)
            assert results == []
            own_postgres.start()
        (result,) = results
        (during,) = result.to_announce
        assert ledger.states() == {before: "queued", during: "queued"}
        assert ledger.moves(during) == [(None, "queued")]


def test_a_postgres_that_is_being_restored_is_waited_for(own_postgres: Server) -> None:
    """It answers, but its tables come with the backup."""
    with (
        closing(Database(own_postgres.url, stop := Stop())) as part,
        closing(Database(own_postgres.url)) as command,
        connect(own_postgres.url) as backup,
    ):
        backup.execute("ALTER TABLE scans RENAME TO not_yet_restored")
        with in_thread(lambda: LedgerDriver(part).register(file_version("meanwhile"))) as results:
            eventually(lambda: stop.waits >= 2)
            assert results == []
            with pytest.raises(DatabaseUnavailable):
                LedgerDriver(command).states()
            backup.execute("ALTER TABLE not_yet_restored RENAME TO scans")
        assert len(results[0].to_announce) == 1
        backup.execute("CHECKPOINT")  # the tests' server commits to memory, and the next test kills it


def test_a_postgres_that_dies_within_a_transaction(own_postgres: Server) -> None:
    begun = threading.Event()
    with closing(Database(own_postgres.url, threading.Event())) as database:
        runs: list[int] = []

        def work(connection: Connection) -> int:
            runs.append(1)
            connection.execute(text("DELETE FROM scan_events; DELETE FROM scans"))
            begun.set()
            if len(runs) == 1:
                own_postgres.kill()
                own_postgres.start()
            return connection.scalar(text("SELECT 7")) or 0

        assert database.write(work) == 7
        assert len(runs) == 2


def test_a_command_says_that_the_database_is_away(own_postgres: Server) -> None:
    with closing(Database(own_postgres.url)) as database:
        database.read(lambda c: c.scalar(text("SELECT 1")))
        own_postgres.stop()
        try:
            with pytest.raises(DatabaseUnavailable) as caught:
                database.read(lambda c: c.scalar(text("SELECT 1")))
            assert "postgres" not in str(caught.value)  # no URL, which holds a password
        finally:
            own_postgres.start()


def test_a_connection_that_went_stale_is_no_outage(own_postgres: Server) -> None:
    """The server was restarted while nobody asked; without `stop` too, it answers now."""
    with closing(Database(own_postgres.url)) as database:
        database.read(lambda c: c.scalar(text("SELECT 1")))
        own_postgres.stop()
        own_postgres.start()
        assert database.read(lambda c: c.scalar(text("SELECT 1"))) == 1


def test_shutdown_ends_the_wait(own_postgres: Server) -> None:
    stop = Stop()
    with closing(Database(own_postgres.url, stop)) as database:
        own_postgres.stop()
        try:
            with in_thread(lambda: LedgerDriver(database).register(file_version())) as results:
                eventually(lambda: stop.waits >= 2)
                assert results == []
                stop.set()
            assert isinstance(results[0], ShuttingDown)
            with pytest.raises(ShuttingDown):
                LedgerDriver(database).register(file_version())
        finally:
            own_postgres.start()


@pytest.mark.parametrize("with_stop", [True, False])
def test_a_deadlock_is_retried(migrated_postgres: str, with_stop: bool) -> None:
    """No outage: a command at a terminal, too, tries again."""
    with closing(Database(migrated_postgres, threading.Event() if with_stop else None)) as database:
        database.write(lambda c: c.execute(text("CREATE TABLE two (id int PRIMARY KEY, n int)")))
        try:
            database.write(lambda c: c.execute(text("INSERT INTO two VALUES (1, 0), (2, 0)")))
            both = threading.Barrier(2)

            def crosswise(*order: int) -> Any:
                first_time = []

                def work(connection: Connection) -> None:
                    connection.execute(text("SET LOCAL deadlock_timeout = '50ms'"))
                    connection.execute(text("UPDATE two SET n = n + 1 WHERE id = :id"), {"id": order[0]})
                    if not first_time:
                        first_time.append(True)
                        both.wait(60)
                    connection.execute(text("UPDATE two SET n = n + 1 WHERE id = :id"), {"id": order[1]})

                return lambda: database.write(work)

            run_concurrently(crosswise(1, 2), crosswise(2, 1))
            assert database.read(lambda c: list(c.scalars(text("SELECT n FROM two")))) == [2, 2]
        finally:
            database.write(lambda c: c.execute(text("DROP TABLE two")))


@pytest.mark.parametrize("url", ["", "nonsense", "mysql://host/db", "oracle://host/db", "sqlite", "postgres://host/db"])
def test_a_url_that_cannot_be_used_is_named(url: str) -> None:
    with pytest.raises(SettingsError, match="PNEUMOWATCH_DATABASE_URL"):
        Database(url)


def test_a_url_without_a_driver_takes_the_one_there_is() -> None:
    with closing(Database("postgresql://user:secret@host/name")) as database:
        assert database.dialect == "postgresql"
        assert database.engine.driver == "psycopg"


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux alone has it")
def test_a_machine_that_vanishes_is_noticed(postgres_database: str) -> None:
    """No connection is closed then: the kernel asks, and gives up. What a URL says itself holds."""

    def options(url: str) -> tuple[int, ...]:
        names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
        with closing(Database(url)) as database, database.engine.connect() as connection:
            number = connection.connection.driver_connection.fileno()  # type: ignore[union-attr]
            with socket.socket(fileno=os.dup(number)) as open_one:
                return tuple(open_one.getsockopt(socket.IPPROTO_TCP, name) for name in names)

    assert options(postgres_database) == (10, 5, 3, 25_000)
    joint = "&" if "?" in postgres_database else "?"
    assert options(f"{postgres_database}{joint}keepalives_idle=77") == (77, 5, 3, 25_000)
