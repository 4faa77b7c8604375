"""The schema's version: upgrade a database, read its revision, and compare its tables with the models."""

import io
from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from db import views
from db.dialect import lock_for_transaction
from db.models import Base
from db.session import Database
from pneumowatch.errors import SchemaMismatch

MIGRATIONS: Final = Path(__file__).parent / "migrations"
# of the development versions, whose tables and columns had other names
PRERELEASE_REVISIONS: Final = frozenset(f"{number:04}" for number in range(1, 13))


def head_revision() -> str:
    """Return the revision that this version of the program needs."""
    revision = scripts().get_current_head()
    assert revision is not None, "there is at least one migration"
    return revision


def is_known_revision(revision: str) -> bool:
    """Tell whether this version can upgrade tables of this revision."""
    return revision in {script.revision for script in scripts().walk_revisions()}


def scripts() -> ScriptDirectory:
    """Return the directory of all migrations."""
    return ScriptDirectory.from_config(_config())


def current_revision(database: Database) -> str | None:
    """Return the revision of the database, or None if it is empty."""
    return database.read(lambda connection: MigrationContext.configure(connection).get_current_revision())


def upgrade(database: Database) -> None:
    """Run the missing migrations and recreate the views, in one transaction.

    Raises SchemaMismatch where no migration leads on from the database's revision; nothing has changed then.
    """

    def migrate(connection: Connection) -> None:
        lock_for_transaction(connection, "pneumowatch db upgrade")  # replicas of a deployment start together
        require_released(MigrationContext.configure(connection).get_current_revision())
        views.drop(connection)
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        views.create(connection)

    database.write(migrate)


def require_current(database: Database) -> None:
    """Raise SchemaMismatch where the database is not at this version's revision."""
    have, want = current_revision(database), head_revision()
    require_released(have)
    if have != want:
        state = "has no tables yet" if have is None else f"is at revision {have}, this version wants {want}"
        raise SchemaMismatch(f"The database {state}; run `pneumowatch db upgrade`.")


def require_released(revision: str | None, what: str = "The database") -> None:
    """Raise SchemaMismatch where the revision is a development version's: no migration leads on from it."""
    if revision in PRERELEASE_REVISIONS:
        raise SchemaMismatch(
            f"{what} was made by a development version of pneumowatch, before its first release (revision {revision}), "
            "and cannot be brought up to this version: keep it aside, copy its verdicts out with the version that made "
            "it, then start with a new data folder or an empty database, and drop the images in again."
        )


def model_differences(database: Database) -> list[Any]:
    """Return the differences between the tables and `db.models`; empty if migrations and models agree."""

    def compare(connection: Connection) -> list[Any]:
        return list(compare_metadata(MigrationContext.configure(connection), Base.metadata))

    return database.read(compare)


def _config() -> Config:
    config = Config(stdout=io.StringIO())
    config.set_main_option("script_location", str(MIGRATIONS))
    return config
