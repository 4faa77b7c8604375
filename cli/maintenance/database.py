"""`db`: upgrade and check the database's tables."""

from pathlib import Path
from typing import Annotated

import typer

from cli.options import Data, Json

database_commands = typer.Typer(
    no_args_is_help=True, help="The database's tables: upgrade them, show their revision, check them."
)


@database_commands.command("upgrade")
def upgrade_database(
    backup: Annotated[
        Path | None, typer.Option("--backup", metavar="OUT", help="Write a backup into this new folder first.")
    ] = None,
    data: Data = None,
) -> None:
    """Create or upgrade the tables and views for this version. Safe to repeat.

    There is no downgrade. To return to an earlier version, restore a backup from before the upgrade with that version
    ([bold]pneumowatch restore[/bold]).
    """
    from cli.maintenance import backups
    from db import schema
    from db.session import Database
    from pneumowatch import settings

    config = settings.load_settings(data_dir=data)
    if not config.database_url:
        config.data_dir.mkdir(parents=True, exist_ok=True)
    connected = Database(config.database)
    have, want = schema.current_revision(connected), schema.head_revision()
    schema.require_released(have)
    if have is not None and have != want:
        if backup is None:
            typer.echo(
                f"Upgrading from revision {have} to {want}. Only a backup from before allows a return: "
                "`pneumowatch backup OUT`, or --backup OUT."
            )
        else:
            backups.write_backup(connected, config, backup, key=True)
            typer.echo(f"{backup} is a backup at revision {have}.")
    schema.upgrade(connected)
    typer.echo(f"The database is at revision {want}.")


@database_commands.command("current")
def show_revision(data: Data = None, json: Json = False) -> None:
    """Print the database's revision and the one that this version needs. Exits with 1 if they differ."""
    from cli.output import print_json
    from db import schema
    from db.session import Database
    from pneumowatch import settings

    have, want = (
        schema.current_revision(Database(settings.load_settings(data_dir=data).database)),
        schema.head_revision(),
    )
    if json:
        print_json({"current": have, "wanted": want})
    else:
        typer.echo(f"current: {have or 'none'}, wanted: {want}")
    raise typer.Exit(0 if have == want else 1)


@database_commands.command("check")
def check_tables(data: Data = None) -> None:
    """Compare the tables with this version's models, column by column. Exits with 1 if they differ."""
    from db import schema
    from db.session import Database
    from pneumowatch import settings

    connected = Database(settings.load_settings(data_dir=data).database)
    schema.require_current(connected)
    differences = schema.model_differences(connected)
    for difference in differences:
        typer.echo(str(difference))
    typer.echo(f"{len(differences)} differences.")
    raise typer.Exit(1 if differences else 0)
