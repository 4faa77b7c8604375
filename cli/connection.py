"""Open the database that the settings name, for a command."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from db.session import Database
    from pneumowatch.settings import Settings


def open_database(data: Path | None) -> "Database":
    """The database of these settings, at the right revision."""
    from db import schema
    from db.session import Database
    from pneumowatch import settings

    config = settings.load_settings(data_dir=data)
    require_ledger(config)
    database = Database(config.database)
    schema.require_current(database)
    return database


def require_ledger(config: "Settings") -> None:
    """Raises DatabaseUnavailable where there is none: looking for it would make one."""
    from pneumowatch.errors import DatabaseUnavailable

    if not config.database_url and not (config.data_dir / "pneumowatch.db").exists():
        raise DatabaseUnavailable(
            f"There is no ledger in {config.data_dir} yet; `pneumowatch up` makes one (--data names another)."
        )
