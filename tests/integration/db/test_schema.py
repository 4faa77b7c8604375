"""Migrations: from nothing to the tables of the models and back, safe to repeat and to run twice at once."""

import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
from alembic import command
from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Connection,
    DateTime,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    String,
    func,
    insert,
    inspect,
    select,
    text,
)
from support.ledger_driver import LedgerDriver, file_version
from support.programs import environment, run

from db import schema
from db.models import Base
from db.session import Database
from db.views import VIEW_NAMES, drop
from pneumowatch.errors import SchemaMismatch

VALUES: Final[dict[type[Any], Any]] = {
    Boolean: False,
    Integer: 1,
    Float: 1.0,
    DateTime: datetime(2026, 1, 1, tzinfo=UTC),
    JSON: {},
    LargeBinary: b"1",
    String: "1",
}

UPGRADE: Final = """
import sys
from db import schema
from db.session import Database
database = Database(sys.argv[1])
schema.head_revision()
print("ready", flush=True)
sys.stdin.readline()
schema.upgrade(database)
database.close()
"""


def tables(database: Database) -> set[str]:
    return database.read(lambda c: set(inspect(c).get_table_names()))


def views(database: Database) -> set[str]:
    return database.read(lambda c: set(inspect(c).get_view_names()))


def set_revision(database: Database, revision: str) -> None:
    """Set the database's revision as another version would leave it."""
    database.write(lambda c: c.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{revision}'"))


def test_from_nothing(empty_database: Database) -> None:
    assert schema.current_revision(empty_database) is None
    with pytest.raises(SchemaMismatch, match="has no tables yet"):
        schema.require_current(empty_database)
    schema.upgrade(empty_database)
    assert schema.current_revision(empty_database) == schema.head_revision()
    schema.require_current(empty_database)
    assert tables(empty_database) == set(Base.metadata.tables) | {"alembic_version"}
    assert views(empty_database) == set(VIEW_NAMES)


def test_models_and_tables_agree(database: Database) -> None:
    assert schema.model_differences(database) == []


def test_indexes_of_the_models_are_there(database: Database) -> None:
    """`drift` compares no conditions of partial indexes, but at least their names."""
    for table in Base.metadata.sorted_tables:
        found = database.read(lambda c, table=table: {index["name"] for index in inspect(c).get_indexes(table.name)})
        assert {index.name for index in table.indexes} <= found


def test_upgraded_twice_keeps_everything(database: Database) -> None:
    ledger = LedgerDriver(database)
    (scan_id,) = ledger.add(file_version())
    schema.upgrade(database)
    assert ledger.state(scan_id) == "queued"
    assert views(database) == set(VIEW_NAMES)
    assert schema.model_differences(database) == []


def test_upgraded_by_two_at_once(empty_database: Database) -> None:
    """Two replicas of a deployment start in the same moment; in two processes, as Alembic knows one at a time."""
    url = empty_database.engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-c", UPGRADE, url]
    replicas = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for replica in replicas:
        assert replica.stdout is not None
        assert replica.stdout.readline() == "ready\n"
    for replica in replicas:
        assert replica.stdin is not None
        replica.stdin.write("go\n")
        replica.stdin.flush()
    faults = [replica.communicate(timeout=30)[1] for replica in replicas]
    assert [replica.returncode for replica in replicas] == [0, 0], faults
    schema.require_current(empty_database)
    assert views(empty_database) == set(VIEW_NAMES)


def test_a_newer_database_is_refused(database: Database) -> None:
    set_revision(database, "9999")
    try:
        with pytest.raises(SchemaMismatch, match="9999"):
            schema.require_current(database)
    finally:  # other tests share it
        set_revision(database, schema.head_revision())


@pytest.mark.parametrize("revision", ["0001", "0012"])
def test_a_database_of_a_development_version_is_refused_and_left_as_it_is(database: Database, revision: str) -> None:
    set_revision(database, revision)
    try:
        for refuse in (schema.upgrade, schema.require_current):
            with pytest.raises(SchemaMismatch, match=rf"revision {revision}.*keep it aside.*drop the images in again"):
                refuse(database)
        assert schema.current_revision(database) == revision
        assert views(database) == set(VIEW_NAMES)
    finally:  # other tests share it
        set_revision(database, schema.head_revision())


def test_downgrade_removes_the_tables(empty_database: Database) -> None:
    schema.upgrade(empty_database)

    def downgrade(connection: Connection) -> None:
        drop(connection)
        config = schema._config()
        config.attributes["connection"] = connection
        command.downgrade(config, "base")

    empty_database.write(downgrade)
    assert tables(empty_database) == {"alembic_version"}
    assert schema.current_revision(empty_database) is None
    schema.upgrade(empty_database)
    assert schema.model_differences(empty_database) == []


def to_revision(database: Database, revision: str) -> None:
    """Migrate up to a revision, without views, as an earlier version left it."""

    def migrate(connection: Connection) -> None:
        config = schema._config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)

    database.write(migrate)


def test_migrations_print_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with closing(Database(f"sqlite:///{tmp_path / 'new.db'}")) as database:
        schema.upgrade(database)
    assert capfd.readouterr() == ("", "")


def some_value(column: Column[Any]) -> Any:
    """Return a value of the column's type, 1 where it is a number: so that the row it refers to exists."""
    for kind, value in VALUES.items():
        if isinstance(column.type, kind):
            return value
    raise AssertionError(f"no value of {column.type!r}")


def fill_new_tables(database: Database, full: set[str]) -> None:
    """Insert one row, with all columns, into each table that has none yet: a migration may have filled one itself."""

    def work(connection: Connection) -> None:
        found = MetaData()
        found.reflect(connection)
        for table in found.sorted_tables:
            if table.name not in full and not connection.scalar(select(func.count()).select_from(table)):
                connection.execute(insert(table).values({column.name: some_value(column) for column in table.c}))
            full.add(table.name)

    database.write(work)


def test_rows_of_every_earlier_version_survive_each_step(empty_database: Database) -> None:
    revisions = [script.revision for script in schema.scripts().walk_revisions()]
    full = {"alembic_version"}
    for revision in reversed(revisions):
        to_revision(empty_database, revision)
        fill_new_tables(empty_database, full)
    schema.upgrade(empty_database)
    assert schema.model_differences(empty_database) == []
    for name in full - {"alembic_version"}:
        assert empty_database.read(lambda c, name=name: c.scalar(text(f"SELECT count(*) FROM {name}"))) == 1, name
    cases = empty_database.read(lambda c: c.execute(text("SELECT scan_id FROM scan_ledger")).all())
    assert len(cases) == 1


@pytest.mark.parametrize("arguments", [("watch",), ("work",), ("schedule",), ("status",), ("review",)])
def test_a_component_of_another_version_than_the_schema_stops_and_says_why(
    sqlite_url: str, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    with closing(Database(sqlite_url)) as database:
        set_revision(database, "9999")
    (tmp_path / "inbox").mkdir()
    env = environment(database_url=sqlite_url, broker_url="redis://127.0.0.1:1/0", data_dir=tmp_path / "data")
    ended = run(*arguments, cwd=tmp_path, env=env)
    assert ended.code == 1
    assert f"is at revision 9999, this version wants {schema.head_revision()}" in ended.err
    assert "Traceback" not in ended.err
