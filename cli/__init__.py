"""The command line: `pneumowatch COMMAND`. Commands import what they need when they run, so that help is instant."""

import io
import sys

import typer

from cli import bench, evaluate, models, outbox, query, rescore, retrain, train, verdicts
from cli.maintenance import backups, database, doctor, erase, purge, users
from cli.run import components, review
from pneumowatch import __version__
from pneumowatch.errors import PneumowatchError

app = typer.Typer(
    name="pneumowatch",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
    help=(
        "Watches shared folders for chest x-rays, classifies them in batches, and keeps a closed ledger "
        "of every file.\n\n"
        "Start with [bold]pneumowatch up[/bold], drop films into the inbox, and look with "
        "[bold]pneumowatch flagged[/bold]. For research and triage; no medical device."
    ),
)

for panel, commands in {
    "Run": (components.up, components.watch, components.work, components.schedule, review.review, components.demo),
    "Inspect and repair": (
        query.flagged,
        query.unscored,
        query.status,
        query.reconcile,
        query.requeue,
        outbox.outbox,
        rescore.rescore,
        query.classify,
        verdicts.verdict,
    ),
    "Models": (train.train, retrain.retrain, evaluate.evaluate, evaluate.survey),
    "Maintenance": (doctor.doctor, backups.backup, backups.restore, purge.purge, erase.erase, bench.bench),
}.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.add_typer(models.model_commands, name="models", rich_help_panel="Models")
app.add_typer(users.user_commands, name="users", rich_help_panel="Maintenance")
app.add_typer(database.database_commands, name="db", rich_help_panel="Maintenance")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Print the version."),
) -> None:
    pass


def main() -> None:
    """Entry point. Errors that people are told about end with one sentence and exit code 1; misuse ends with 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of films that the terminal's encoding does not know
    try:
        app()
    except PneumowatchError as error:
        typer.echo(f"pneumowatch: {error}", err=True)
        sys.exit(1)
    except BrokenPipeError:  # `pneumowatch flagged | head`
        sys.stderr.close()
        sys.exit(0)
