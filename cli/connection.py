"""Open the database of the settings, for a command."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from db.session import Database
    from pneumowatch.settings import Settings


def open_database(data: Path | None) -> "Database":
    """Open the database of these settings. Raises DatabaseUnavailable where there is none, or its revision is wrong."""
    from db import schema
    from db.session import Database
    from pneumowatch import settings

    config = settings.load_settings(data_dir=data)
    require_ledger(config)
    database = Database(config.database)
    schema.require_current(database)
    return database


def require_ledger(config: "Settings") -> None:
    """Raise DatabaseUnavailable where there is no ledger yet: connecting to SQLite would create an empty one."""
    from pneumowatch.errors import DatabaseUnavailable

    if not config.database_url and not (config.data_dir / "pneumowatch.db").exists():
        raise DatabaseUnavailable(
            f"There is no ledger in {config.data_dir} yet. `pneumowatch up` creates one; --data names another folder."
        )
