"""`doctor`: check an installation."""

from dataclasses import asdict

import typer

from cli.options import Data, Json


def doctor(data: Data = None, json: Json = False) -> None:
    """Check the installation: inboxes, database, broker, model, disk, clock, components, silent sources.

    Exits with 1 if a problem keeps scans from being processed, or soon will: for example a component that is gone or
    stalled, or a source that has sent nothing for longer than usual.
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
