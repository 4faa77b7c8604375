"""Commands that run parts of pneumowatch until they are stopped: all of it (`up`), or one part each."""

import logging
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from pneumowatch.errors import SettingsError

if TYPE_CHECKING:
    from db.pulse import Part
    from db.session import Database
    from pneumowatch.queue import Doorbell
    from pneumowatch.settings import Settings

Inbox = Annotated[Path | None, typer.Option("--inbox", help="The shared folder (default: as configured, or ./inbox).")]
Data = Annotated[
    Path | None, typer.Option("--data", help="Where pneumowatch writes (default: PNEUMOWATCH_DATA_DIR, or ./data).")
]


def up(
    inbox: Inbox = None,
    data: Data = None,
    once: Annotated[bool, typer.Option("--once", help="Read what the folder holds now, then end.")] = False,
    desk: Annotated[bool, typer.Option("--desk/--no-desk", help="Serve the desk on this machine.")] = True,
) -> None:
    """Run everything on this machine: watcher, worker, schedule and desk, with SQLite and a queue of its own.

    Drop films into the inbox; look at the desk, by the link that is printed, or with
    [bold]pneumowatch flagged[/bold]. Ctrl-C finishes what is being read and ends;
    the next start goes on where this one stopped. With [bold]--once[/bold] it ends with 0 if every file has its result
    or reason and nothing failed, else with 1.
    """
    from pneumowatch import inboxes, settings
    from pneumowatch.cli import stopping
    from pneumowatch.cli.embedded import run_embedded

    given = settings.load(data_dir=data)
    _leave(run_embedded(given, inboxes.watched(given, inbox), stopping.on_request(), once, desk))


def demo(
    folder: Annotated[Path, typer.Option("--folder", help="Where the demo's films and results go.")] = Path("demo"),
    count: Annotated[int, typer.Option("--films", min=1, max=9999, help="How many films to generate.")] = 24,
) -> None:
    """Show the whole way on generated phantom films, without patients: files, queue, model, ledger; then end.

    The films are drawn by a program and marked as source 'synthetic'; what the model says of them means nothing.
    """
    from pneumowatch import settings
    from pneumowatch.cli import stopping
    from pneumowatch.cli.embedded import run_embedded
    from pneumowatch.cli.output import console
    from pneumowatch.cli.query import flagged
    from pneumowatch.phantom import SOURCE, write_phantoms

    inbox = (folder / "inbox").absolute()
    inbox.mkdir(parents=True, exist_ok=True)
    write_phantoms(inbox, count)
    console.print(f"{count} phantom films lie in {folder / 'inbox'}; reading them as `up --once` would.")
    given = settings.load(data_dir=folder / "data")
    code = run_embedded(given, {SOURCE: inbox}, stopping.on_request(), once=True)
    flagged(data=folder / "data", limit=10)
    console.print("These films are synthetic: the figures show that the way works, not how well the model reads.")
    raise typer.Exit(code)


def watch() -> None:
    """Watch the inboxes (PNEUMOWATCH_INBOXES) and announce films to the workers. Needs Redis; one a deployment."""
    from db.presence import known_here
    from db.pulse import beating
    from pneumowatch import inboxes, metrics
    from watcher.intake import Watcher

    given, stop = _begin()
    database, doorbell = _connect(given, stop)
    with beating(database) as pulse, metrics.serving(given, pulse):
        part, watched = pulse.part("watcher"), inboxes.watched(given, known=database.read(known_here))
        watcher = Watcher(given, watched, database, doorbell, stop, part)
        with watcher.running():
            _sweep_until(stop, given, database, doorbell, part)
        if watcher.broken:
            raise typer.Exit(1)


def work(
    device: Annotated[
        str | None, typer.Option(help="cpu, or gpu:0, gpu:1, ... (default: a GPU where TensorFlow sees one).")
    ] = None,
    queue: Annotated[str, typer.Option(help="films, or training: the nightly training in place of films.")] = "films",
) -> None:
    """Read films that are announced: one process a GPU, as many as you like. Needs Redis.

    SIGTERM drains: what is being read is finished, the rest is left to the others. With [bold]--queue training[/bold]
    it runs the nightly training when `schedule` says that it is time, as a process of its own behind the films.
    """
    from db import schema
    from db.presence import known_here
    from db.pulse import beating
    from db.session import Database
    from pneumowatch import inboxes, metrics
    from pneumowatch.cli import apart
    from pneumowatch.queue import FILMS, TRAINING, make_app
    from worker.tasks import read_films

    if queue not in (FILMS, TRAINING):
        raise typer.BadParameter(f"'{queue}' is no queue; there is {FILMS} and {TRAINING}.", param_hint="--queue")
    given, stop = _begin()
    _require_services(given)
    database = Database(given.database, stop)
    schema.require_current(database)
    app = make_app(given)
    with beating(database) as pulse, metrics.serving(given, pulse):
        if queue == TRAINING:
            code = apart.work(app, given, stop, pulse.part("training"))
        else:
            read_from = inboxes.choose(given, known=database.read(known_here))
            code = read_films(app, given, read_from, database, stop, pulse.part("worker"), device)
        if code:
            raise typer.Exit(code)
    _leave(0)


def schedule() -> None:
    """Look after the queue: announce what it has forgotten, take back what dead workers held. Safe to run twice.

    And every night at PNEUMOWATCH_RETRAIN_AT, tell the training queue that it is time. And deliver what is to be told
    of flagged films: to the webhook, by e-mail, to the PACS, as far as the settings name them.
    """
    from db.census import Census
    from db.pulse import beating
    from db.session import Database
    from pneumowatch import inboxes, metrics
    from pneumowatch.cli import apart, mailroom

    given, stop = _begin()
    database, doorbell = _connect(given, stop)
    men = mailroom.postmen(given, database, inboxes.named(given))
    # a database of its own, that does not wait an outage out: that there is one is what is to be told
    census = Census(Database(given.database), given)
    with beating(database) as pulse, metrics.serving(given, pulse, census):
        part = pulse.part("schedule")
        part.say("sweeping")
        nights = apart.following(given, database, apart.ringing(doorbell), stop, part)
        with nights, mailroom.delivering(given, men, stop, part):
            _sweep_until(stop, given, database, doorbell, part)


def _leave(code: int) -> NoReturn:
    """End, with all closed, and without taking TensorFlow apart, which would cost a second or more for nothing."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _begin() -> "tuple[Settings, threading.Event]":
    """Settings, logs, and an event that SIGTERM and Ctrl-C set."""
    from pneumowatch import logs, settings
    from pneumowatch.cli import stopping

    given = settings.load()
    logs.configure(given.log_format)
    return given, stopping.on_request()


def _connect(given: "Settings", stop: threading.Event) -> "tuple[Database, Doorbell]":
    from db import deployment, schema
    from db.session import Database
    from pneumowatch.queue import Doorbell, make_app

    _require_services(given)
    database = Database(given.database, stop)
    schema.require_current(database)
    deployment.check_patient_key(database, given)
    return database, Doorbell(make_app(given), given)


def _require_services(given: "Settings") -> None:
    """An outage is waited out, but not what was never there."""
    if given.embedded_queue:
        raise SettingsError(
            "PNEUMOWATCH_BROKER_URL is not set: parts that run apart need Redis between them (redis://HOST:6379/0). "
            "`pneumowatch up` runs everything without."
        )
    if not given.database_url and not (given.data_dir / "pneumowatch.db").exists():
        raise SettingsError(
            f"PNEUMOWATCH_DATABASE_URL is not set, and there is no ledger in {given.data_dir}; set it, or make one "
            "with `pneumowatch db upgrade`."
        )


def _sweep_until(
    stop: threading.Event, given: "Settings", database: "Database", doorbell: "Doorbell", part: "Part"
) -> None:
    from db.sweep import Sweeper
    from pneumowatch.errors import ShuttingDown
    from pneumowatch.queue import part_name

    by = part_name(part.kind)
    sweeper = Sweeper(database, doorbell.ring, doorbell.holds, given.lease_seconds, given.max_attempts, by)
    with suppress(ShuttingDown):
        sweeper.run(stop, given.sweep_seconds, part)
