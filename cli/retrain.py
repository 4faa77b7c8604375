"""`retrain`: the nightly retraining, started by hand or by the schedule."""

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cli.options import Data, Json, Limit

if TYPE_CHECKING:
    from db.session import Database

NICE: Final = 10  # lower CPU priority: scans come first
TRAINING_COLUMNS: Final = ("id", "state", "decision", "started_at", "new_labels")


def retrain(
    force: Annotated[bool, typer.Option("--force", help="Retrain even with too few new verdicts.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Only show the latest runs.")] = False,
    epochs: Annotated[int | None, typer.Option(min=1, help="Number of epochs (default: the network's own).")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Batches per epoch (default: the network's own).")] = None,
    data: Data = None,
    limit: Limit = 10,
    json: Json = False,
    nightly: Annotated[bool, typer.Option("--nightly", hidden=True)] = False,  # only when due, niced, no bar
) -> None:
    """Train a challenger on readers' verdicts, and promote it only if it is better than the champion.

    The training data are the base dataset (PNEUMOWATCH_TRAINING_DIR) and the stored images of reviewed scans. The
    challenger is promoted if it is as good as the champion and the shipped model on held-out patients of the base
    dataset, and better on newer verdicts about held-out patients. Decision, figures and reasons are recorded
    ([bold]--status[/bold]); [bold]pneumowatch models rollback[/bold] undoes a promotion. Only one training runs at a
    time, and it may be killed at any point.

    The schedule runs this every night at PNEUMOWATCH_RETRAIN_AT if there are enough new verdicts. Exits with 0 for any
    decision, with 1 where no decision was reached.
    """
    from cli.connection import open_database
    from cli.output import print_json, print_table
    from db.registry import training_runs

    if not status:
        return _attempt(data, force, epochs, steps, json, nightly)
    rows = [dict(row) for row in open_database(data).read(lambda c: training_runs.recent_runs(c, limit))]
    if json:
        return print_json(rows)
    print_table("Trainings", rows, TRAINING_COLUMNS)
    return _print_run(rows[0]) if rows else None


def _attempt(data: Any, force: bool, epochs: int | None, steps: int | None, json: bool, nightly: bool) -> None:
    from cli import signals
    from cli.output import console, print_json
    from pneumowatch import logs, settings
    from trainer.nightly import retrain_run as nightly_training

    config = settings.load_settings(data_dir=data)
    logs.configure(config.log_format)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns when several models are run one after another
    stop = signals.stop_event()
    parent_pid = os.getppid()
    if nightly:
        os.nice(NICE)
    options = nightly_training.RetrainOptions(force, nightly, epochs, steps)
    with _progress_bar(not nightly) as progress:

        def on_progress(*at: Any) -> None:
            if nightly and os.getppid() != parent_pid:
                stop.set()  # the parent was killed: nobody would know why this machine is busy
            progress(*at)

        row = nightly_training.run_retraining(config, _blocking_database(data, stop), stop, options, on_progress)
    if row is None:
        return console.print("No training is due.")
    if json:
        return print_json(dict(row))
    return _print_run(row)


def _blocking_database(data: Any, stop: threading.Event) -> "Database":
    """Open a database that waits for the end of an outage, so that hours of training are not lost to one."""
    from cli.connection import open_database
    from db.session import Database

    database = open_database(data)
    return Database(database.engine.url.render_as_string(hide_password=False), stop)


def _print_run(row: Mapping[str, Any]) -> None:
    from cli.output import console

    heading = f"Training {row['id']}: {row['decision'] or row['state']}"
    version = f" ({row['challenger']})" if row["challenger"] else ""
    console.print(f"{heading.replace('_', ' ')}{version}.", highlight=False, markup=False)
    for reason in row["reasons"]:
        console.print(reason, highlight=False, markup=False)


@contextmanager
def _progress_bar(shown: bool) -> Iterator[Callable[[str, int, int, str], None]]:
    """Show a progress bar on standard error, so that --json stays clean. Yields its update function."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from cli.output import error_console

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=error_console, disable=not shown) as progress:
        task = progress.add_task("starting", total=None, note="")

        def on_progress(stage: str, done: int, of: int, note: str) -> None:
            progress.update(task, description=stage, completed=done, total=of or None, note=note)

        yield on_progress
