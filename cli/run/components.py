"""Commands that run components of pneumowatch until they are stopped: all of them (`up`), or one each."""

import logging
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from cli.options import Data
from pneumowatch.errors import SettingsError

if TYPE_CHECKING:
    from db.session import Database
    from pneumowatch.component import Component
    from pneumowatch.queue import Announcer
    from pneumowatch.settings import Settings

Inbox = Annotated[
    Path | None, typer.Option("--inbox", help="The shared folder (default: PNEUMOWATCH_INBOXES, or ./inbox).")
]


def up(
    inbox: Inbox = None,
    data: Data = None,
    once: Annotated[bool, typer.Option("--once", help="Process the files that are there now, then exit.")] = False,
    review_app: Annotated[
        bool, typer.Option("--review/--no-review", help="Serve the review app on this machine.")
    ] = True,
) -> None:
    """Run everything on this machine: watcher, worker, schedule and review app, with SQLite and an in-process queue.

    Copy images into the inbox. Open the review app with the link that is printed, or list results with
    [bold]pneumowatch flagged[/bold]. Ctrl-C finishes the running scans and exits; the next start continues where this
    one stopped. With [bold]--once[/bold] the exit code is 0 if every file has a result or a reason and nothing failed,
    else 1.
    """
    from cli import signals
    from cli.run.embedded import run_embedded
    from pneumowatch import inboxes, settings

    config = settings.load_settings(data_dir=data)
    _exit_now(run_embedded(config, inboxes.watched(config, inbox), signals.stop_event(), once, review_app))


def demo(
    folder: Annotated[Path, typer.Option("--folder", help="Folder for the demo's images and results.")] = Path("demo"),
    count: Annotated[int, typer.Option("--images", min=1, max=9999, help="How many images to generate.")] = 24,
) -> None:
    """Demonstrate the pipeline on generated phantom images, without patient data, then exit.

    The images are drawn by a program and marked as source 'synthetic'. The model's results on them mean nothing.
    """
    from cli import signals
    from cli.output import console
    from cli.query import flagged
    from cli.run.embedded import run_embedded
    from pneumowatch import settings
    from pneumowatch.imaging.phantom import PHANTOM_SOURCE, write_phantoms

    inbox = (folder / "inbox").absolute()
    inbox.mkdir(parents=True, exist_ok=True)
    write_phantoms(inbox, count)
    console.print(f"{count} phantom images are in {folder / 'inbox'}; processing them like `up --once`.")
    config = settings.load_settings(data_dir=folder / "data")
    code = run_embedded(config, {PHANTOM_SOURCE: inbox}, signals.stop_event(), once=True)
    flagged(data=folder / "data", limit=10)
    console.print("These images are synthetic: they show that the pipeline works, not how good the model is.")
    raise typer.Exit(code)


def watch() -> None:
    """Watch the inboxes (PNEUMOWATCH_INBOXES), register files and announce them to the workers.

    Needs Redis. Run one per deployment.
    """
    from db.health.heartbeat_writer import writing_heartbeats
    from db.health.inbox_presence import known_roots
    from pneumowatch import inboxes, metrics
    from watcher.intake import Watcher

    config, stop = _configure()
    database, announcer = _connect(config, stop)
    with writing_heartbeats(database) as writer, metrics.serving_metrics(config, writer):
        component, watched = writer.add_component("watcher"), inboxes.watched(config, known=database.read(known_roots))
        watcher = Watcher(config, watched, database, announcer, stop, component)
        with watcher.running():
            _sweep_until(stop, config, database, announcer, component)
        if watcher.broken:
            raise typer.Exit(1)


def work(
    device: Annotated[
        str | None, typer.Option(help="cpu, or gpu:0, gpu:1, ... (default: a GPU where TensorFlow sees one).")
    ] = None,
    queue: Annotated[
        str, typer.Option(help="scans: classify scans; training: run the nightly training instead.")
    ] = "scans",
) -> None:
    """Classify announced scans. Run one process per GPU, as many as you like. Needs Redis.

    SIGTERM drains: running scans are finished, the others are left to other workers. With
    [bold]--queue training[/bold] it runs the nightly training when `schedule` announces it, in a process of its own
    with lower priority.
    """
    from cli.run import training_process
    from db import schema
    from db.health.heartbeat_writer import writing_heartbeats
    from db.health.inbox_presence import known_roots
    from db.session import Database
    from pneumowatch import inboxes, metrics
    from pneumowatch.queue import SCANS_QUEUE, TRAINING_QUEUE, make_celery_app
    from worker.tasks import process_scans

    queues = {"scans": SCANS_QUEUE, "training": TRAINING_QUEUE}  # option -> name at the broker
    if queue not in queues:
        raise typer.BadParameter(f"'{queue}' is not a queue; use one of: {', '.join(queues)}.", param_hint="--queue")
    config, stop = _configure()
    _require_services(config)
    database = Database(config.database, stop)
    schema.require_current(database)
    app = make_celery_app(config)
    with writing_heartbeats(database) as writer, metrics.serving_metrics(config, writer):
        if queues[queue] == TRAINING_QUEUE:
            code = training_process.work_training_queue(app, config, stop, writer.add_component("training"))
        else:
            read_from = inboxes.validated(config, known=database.read(known_roots))
            code = process_scans(app, config, read_from, database, stop, writer.add_component("worker"), device)
        if code:
            raise typer.Exit(code)
    _exit_now(0)


def schedule() -> None:
    """Run periodic work: announce lost scans again, deliver notifications, start the nightly training.

    Scans whose message was lost are announced again, and scans of dead workers are queued again. Notifications about
    flagged scans go to the configured channels: webhook, e-mail, PACS. The nightly training is announced at
    PNEUMOWATCH_RETRAIN_AT. Several may run at once.
    """
    from cli.run import dispatchers, training_process
    from db.health.heartbeat_writer import writing_heartbeats
    from db.health.ledger_metrics import LedgerCollector
    from db.session import Database
    from pneumowatch import inboxes, metrics

    config, stop = _configure()
    database, announcer = _connect(config, stop)
    running = dispatchers.make_dispatchers(config, database, inboxes.configured(config))
    # a database of its own that does not wait for the end of an outage: the metrics must report the outage
    collector = LedgerCollector(Database(config.database), config)
    with writing_heartbeats(database) as writer, metrics.serving_metrics(config, writer, collector):
        component = writer.add_component("schedule")
        component.set_status("sweeping")
        timetable = training_process.running_timetable(
            config, database, training_process.training_announcer(announcer), stop, component
        )
        with timetable, dispatchers.running_dispatchers(config, running, stop, component):
            _sweep_until(stop, config, database, announcer, component)


def _exit_now(code: int) -> NoReturn:
    """Exit with all streams flushed, but skip TensorFlow's teardown, which would cost a second or more for nothing."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _configure() -> "tuple[Settings, threading.Event]":
    """Load the settings and configure the log. Returns the settings, and an event that SIGTERM and Ctrl-C set."""
    from cli import signals
    from pneumowatch import logs, settings

    config = settings.load_settings()
    logs.configure(config.log_format)
    return config, signals.stop_event()


def _connect(config: "Settings", stop: threading.Event) -> "tuple[Database, Announcer]":
    from db import deployment, schema
    from db.session import Database
    from pneumowatch.queue import Announcer, make_celery_app

    _require_services(config)
    database = Database(config.database, stop)
    schema.require_current(database)
    deployment.check_patient_key(database, config)
    return database, Announcer(make_celery_app(config), config)


def _require_services(config: "Settings") -> None:
    """Raise SettingsError where broker or database are not configured. Outages are waited for, missing settings not."""
    if config.embedded_queue:
        raise SettingsError(
            "PNEUMOWATCH_BROKER_URL is not set: components in separate processes need Redis (redis://HOST:6379/0). "
            "`pneumowatch up` runs everything without Redis."
        )
    if not config.database_url and not (config.data_dir / "pneumowatch.db").exists():
        raise SettingsError(
            f"PNEUMOWATCH_DATABASE_URL is not set, and there is no ledger in {config.data_dir}; set it, or create a "
            "ledger with `pneumowatch db upgrade`."
        )


def _sweep_until(
    stop: threading.Event, config: "Settings", database: "Database", announcer: "Announcer", component: "Component"
) -> None:
    from db.ledger.sweep import Sweeper
    from pneumowatch.errors import ShuttingDown
    from pneumowatch.queue import component_name

    by = component_name(component.kind)
    sweeper = Sweeper(
        database, announcer.announce, announcer.outstanding, config.lease_seconds, config.max_attempts, by
    )
    with suppress(ShuttingDown):
        sweeper.run(stop, config.sweep_seconds, component)
