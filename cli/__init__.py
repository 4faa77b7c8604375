"""The command line: `pneumowatch COMMAND`. Commands import their modules when they run, so that --help is fast."""

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
        "Watch shared folders for chest x-rays, classify them in batches, and record every file in a database.\n\n"
        "Start with [bold]pneumowatch up[/bold], copy images into the inbox, and list the results with "
        "[bold]pneumowatch flagged[/bold]. For research and triage only; not a medical device."
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
    """Run the command line. An expected error prints one sentence and exits with 1; wrong usage exits with 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for file names that the terminal's encoding cannot print
    try:
        app()
    except PneumowatchError as error:
        typer.echo(f"pneumowatch: {error}", err=True)
        sys.exit(1)
    except BrokenPipeError:  # `pneumowatch flagged | head`
        sys.stderr.close()
        sys.exit(0)
