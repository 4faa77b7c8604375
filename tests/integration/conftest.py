"""The ledger on a real SQLite and on a real PostgreSQL.

Migrating takes longer than most tests, so it is done once a session: SQLite's file is copied, PostgreSQL's tables are
emptied.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import text
from support.ledger_driver import LedgerDriver
from support.services import fresh_database

from db import schema
from db.models import Base
from db.session import Database

BOTH = ["sqlite", "postgresql"]


@pytest.fixture(params=BOTH)
def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database without tables, of either kind."""
    sqlite = f"sqlite:///{tmp_path / 'ledger.db'}"
    url = sqlite if request.param == "sqlite" else request.getfixturevalue("postgres_database")
    with closing(Database(url)) as database:
        yield database


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("migrated") / "ledger.db"
    with closing(Database(f"sqlite:///{file}")) as database:
        schema.upgrade(database)
    return file


@pytest.fixture(scope="session")
def migrated_postgres(postgres_url: str) -> Iterator[str]:
    with fresh_database(postgres_url) as url:
        with closing(Database(url)) as database:
            schema.upgrade(database)
        yield url


@pytest.fixture
def sqlite_url(migrated_sqlite: Path, tmp_path: Path) -> str:
    return f"sqlite:///{shutil.copy(migrated_sqlite, tmp_path / 'ledger.db')}"


@pytest.fixture(params=BOTH)
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of a ledger without a row, of either kind."""
    return request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "migrated_postgres")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with closing(Database(database_url)) as database:
        yield database
        if database.dialect == "postgresql":
            tables = ", ".join(table.name for table in Base.metadata.sorted_tables)
            database.write(lambda c: c.execute(text(f"TRUNCATE {tables} RESTART IDENTITY CASCADE")))


@pytest.fixture
def ledger(database: Database) -> LedgerDriver:
    ledger = LedgerDriver(database)
    ledger.register_model()
    return ledger


NEXT_MIGRATION: Final = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = "{revision}", "{head}"

def upgrade():
    op.create_table("of_the_next_version", sa.Column("id", sa.Integer(), primary_key=True))
"""


@pytest.fixture
def install_next_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Give the program a further migration from this call on; the call returns its revision."""

    def install() -> str:
        folder = shutil.copytree(schema.MIGRATIONS, tmp_path / "migrations")
        source = NEXT_MIGRATION.format(revision="next_version", head=schema.head_revision())
        (folder / "versions" / "next_version.py").write_text(source)
        monkeypatch.setattr(schema, "MIGRATIONS", folder)
        return "next_version"

    return install


@pytest.fixture
def postgres_ledger(postgres_database: str) -> Iterator[LedgerDriver]:
    """A ledger in a PostgreSQL of its own, for what only PostgreSQL can show."""
    with closing(Database(postgres_database)) as database:
        schema.upgrade(database)
        ledger = LedgerDriver(database)
        ledger.register_model()
        yield ledger
