"""Commands for whoever looks after an installation."""

from pathlib import Path
from typing import Annotated

import typer

from cli.options import Data, Json

database_commands = typer.Typer(
    no_args_is_help=True, help="The database's tables: bring them up to date, or look where they stand."
)


@database_commands.command("upgrade")
def upgrade_database(
    backup: Annotated[
        Path | None, typer.Option("--backup", metavar="OUT", help="First write a backup into this new folder.")
    ] = None,
    data: Data = None,
) -> None:
    """Make or mend the tables and views for this version. Safe to repeat.

    Tables never go back: the way to an earlier version is a backup from before, put back by that version
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
                f"From revision {have} to {want}. There is no way back but a backup from before: "
                "`pneumowatch backup OUT`, or --backup OUT."
            )
        else:
            backups.write_backup(connected, config, backup, key=True)
            typer.echo(f"{backup} holds everything as it was at revision {have}.")
    schema.upgrade(connected)
    typer.echo(f"The database is at revision {want}.")


@database_commands.command("current")
def show_revision(data: Data = None, json: Json = False) -> None:
    """Print the database's revision and the one this version wants. Ends with 1 where they differ."""
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
    """Compare the tables with what this version expects, column by column. Ends with 1 where they differ."""
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
