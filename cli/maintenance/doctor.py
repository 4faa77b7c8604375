"""`doctor`: check an installation."""

from dataclasses import asdict

import typer

from cli.options import Data, Json


def doctor(data: Data = None, json: Json = False) -> None:
    """Find what is wrong before a user does: inboxes, database, broker, model, disk, clock, parts, silent sources.

    Ends with 1 where something keeps films from being read, or would: a part that is gone or does nothing, a source
    that has sent nothing for longer than usual.
    """
    from cli.maintenance.health_checks import run_checks
    from cli.output import print_json, print_table
    from pneumowatch import settings

    results = run_checks(settings.load_settings(data_dir=data))
    if json:
        print_json([asdict(result) for result in results])
    else:
        print_table("Health checks", [asdict(result) for result in results], ["status", "check", "message"])
    raise typer.Exit(1 if any(result.status == "error" for result in results) else 0)
