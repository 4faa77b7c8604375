"""`up`: every part in one process, on SQLite and an in-process queue. Threads, but for the decoding children."""

import fcntl
import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from sqlalchemy import Connection, select, update

from db import deployment, ledger, outbox, scans, schema
from db.census import Census
from db.models import Scan
from db.pulse import Pulse, beating
from db.session import Database
from db.states import State
from db.sweep import Sweeper
from pneumowatch import logs, metrics
from pneumowatch.cli import apart, mailroom
from pneumowatch.cli.output import console, errors, print_table
from pneumowatch.errors import SettingsError, ShuttingDown
from pneumowatch.queue import Doorbell, make_app, part_name
from pneumowatch.settings import Settings
from watcher.intake import Watcher
from watcher.reconcile import reconcile

LOOK_SECONDS: Final = 0.2  # how often `--once` looks whether it is done


def run_embedded(
    settings: Settings, inboxes: dict[str, Path], stop: threading.Event, once: bool, desk: bool = False
) -> int:
    """Run everything until `stop` or, with `once`, until the folders are worked off. Returns the exit code.

    Args:
        desk: serve it too; not with `once`.
    """
    if settings.database_url or not settings.embedded_queue:
        raise SettingsError(
            "`up` runs on its own SQLite and queue; PNEUMOWATCH_DATABASE_URL and PNEUMOWATCH_BROKER_URL are for "
            "`watch` and `work`. Unset them, or run those."
        )
    logs.configure(settings.log_format, logging.WARNING if once else logging.INFO)
    with own(settings.data_dir):
        return _Embedded(settings, inboxes, stop, desk and not once).run(once)


class _Embedded:
    def __init__(self, settings: Settings, inboxes: dict[str, Path], stop: threading.Event, desk: bool) -> None:
        self._settings = settings
        self._with_desk = desk
        self._inboxes = inboxes
        self._stop = stop
        self._database = Database(settings.database, self._stop)
        self._app = make_app(settings)
        self._doorbell = Doorbell(self._app, settings)

    def run(self, once: bool) -> int:
        schema.upgrade(self._database)
        deployment.patient_key(self._database, self._settings)  # here for its complaints, before anything is begun
        self._database.write(lambda connection: _take_over(connection, self._settings.max_attempts))
        self._postmen = mailroom.postmen(self._settings, self._database, self._inboxes)
        census = Census(Database(self._settings.database), self._settings)
        with beating(self._database) as pulse, metrics.serving(self._settings, pulse, census):
            code = self._live(once, pulse)
            pulse.broken = code != 0 and not once
        return code

    def _live(self, once: bool, pulse: Pulse) -> int:
        self._worker, self._schedule = pulse.part("worker"), pulse.part("schedule")
        self._schedule.say("sweeping")
        self._watcher = Watcher(
            self._settings, self._inboxes, self._database, self._doorbell, self._stop, pulse.part("watcher")
        )
        sweep = threading.Thread(target=self._sweep, name="sweep")
        with ExitStack() as parts:
            if self._with_desk:
                parts.enter_context(self._desk())  # left last: readers see what is drained
            if not once:
                self._greet()
            parts.enter_context(self._watcher.running())
            if not once:
                parts.enter_context(self._school())
                delivering = mailroom.delivering(self._settings, self._postmen, self._stop, self._schedule)
                parts.enter_context(delivering)
            sweep.start()
            try:
                code = self._read_once() if once else self._read()
            finally:
                self._stop.set()
                sweep.join()
        if once:
            return self._sum_up() if code == 0 and not self._watcher.broken else 1
        return 1 if self._watcher.broken else code

    def _read(self, patient: bool = True) -> int:
        """Read films until stopped; `patient`: even if it takes a while until a model can be loaded. TensorFlow is
        loaded here, while the watcher registers what is there already."""
        from worker.tasks import read_films

        given = self._settings, self._inboxes, self._database, self._stop, self._worker
        return read_films(self._app, *given, patient=patient)

    def _read_once(self) -> int:
        while not self._nothing_left():
            if self._stop.wait(LOOK_SECONDS):
                return 1
            if self._watcher.unsettled or self._database.read(scans.waiting):
                threading.Thread(target=self._show_progress, name="progress").start()
                return self._read(patient=False)
        return 0

    def _nothing_left(self) -> bool:
        return self._watcher.quiet.is_set() and self._database.read(scans.waiting) == 0

    def _show_progress(self) -> None:
        """Draw the bar, and end the run once every film has a final state."""
        columns = (
            TextColumn("reading"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("films"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        try:
            before = self._database.read(scans.finished)
            with Progress(*columns, console=errors) as progress:
                bar = progress.add_task("reading", total=None)
                while not self._stop.wait(LOOK_SECONDS):
                    done, waiting = self._database.read(lambda c: (scans.finished(c) - before, scans.waiting(c)))
                    progress.update(bar, completed=done, total=done + waiting + self._watcher.unsettled)
                    if self._nothing_left():
                        return
        except ShuttingDown:
            pass
        finally:
            self._stop.set()

    def _sweep(self) -> None:
        given = self._settings
        sweeper = Sweeper(
            self._database,
            self._doorbell.ring,
            self._doorbell.holds,
            given.lease_seconds,
            given.max_attempts,
            part_name("sweep"),
        )
        with suppress(ShuttingDown):
            sweeper.run(self._stop, given.sweep_seconds, self._schedule)

    @contextmanager
    def _school(self) -> Iterator[None]:
        """The nightly training, in a process of its own: as a thread it would make films wait."""
        begin = partial(apart.run, self._settings, self._stop)
        with apart.following(self._settings, self._database, begin, self._stop, self._schedule):
            yield

    @contextmanager
    def _desk(self) -> Iterator[None]:
        """On loopback alone, with a link for whoever sees this terminal."""
        from review.app import make_app as make_desk
        from review.once import OneTimeLink
        from review.server import Server

        given, link = self._settings, OneTimeLink()
        own = Database(given.database)  # a reader is told of an outage; the parts that read films wait it out
        app = make_desk(given, own, inboxes=self._inboxes, doorbell=self._doorbell, one_time=link)
        with closing(own), Server(app, port=given.desk_port, elsewhere=True) as server:
            console.print(f"Desk: {server.url}{link.path()}", markup=False, highlight=False, soft_wrap=True)
            console.print("The link signs you in, once and within ten minutes; `pneumowatch users add` makes accounts.")
            yield

    def _greet(self) -> None:
        data = self._settings.data_dir
        for name, folder in self._inboxes.items():
            console.print(f"Watching [bold]{folder}[/bold] ({name}): drop films there.")
        console.print(f"Results: [bold]pneumowatch flagged --data {data}[/bold], or SQL: sqlite3 {data}/pneumowatch.db")
        console.print("Ctrl-C ends it. Research and triage only; no medical device.")

    def _sum_up(self) -> int:
        mailroom.deliver_all(self._postmen)
        counts = self._database.read(scans.counts)
        report = reconcile(self._database, self._inboxes)
        print_table(
            "The ledger", [{"state": state, "films": str(count)} for state, count in counts.items()], ["state", "films"]
        )
        unscored = self._database.read(lambda c: scans.size_of(c, "unscored_cases"))
        if unscored:
            console.print(
                f"{unscored} files got no result: `pneumowatch unscored --data {self._settings.data_dir}` says why."
            )
        for line in mailroom.lines(self._database.read(outbox.counts)):
            console.print(line)
        console.print(
            "The ledger is closed." if report.closed else "Files are missing from the ledger; see `reconcile`."
        )
        waiting = self._database.read(scans.waiting)
        if waiting:
            console.print(f"{waiting} films still wait; the next run goes on with them.")
        return 0 if report.closed and not waiting and not counts[State.FAILED] else 1


def _take_over(connection: Connection, max_attempts: int) -> None:
    """What a process that is gone had claimed or announced: nobody else can have, as the data folder is locked."""
    running = connection.execute(select(Scan.id, Scan.claim_token).where(Scan.state == State.RUNNING)).all()
    ledger.expire(connection, [(scan_id, token or "") for scan_id, token in running], max_attempts, part_name("up"))
    connection.execute(update(Scan).where(Scan.state == State.QUEUED).values(rung_at=None))
    outbox.release(connection)


@contextmanager
def own(data_dir: Path) -> Iterator[None]:
    """Hold the data folder for this process alone."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = (data_dir / "lock").open("w")
    except OSError as error:
        raise SettingsError(f"The data folder {data_dir} cannot be written to: {error.strerror}.") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SettingsError(
                f"Another `pneumowatch up` works in {data_dir}; stop it, or name another --data."
            ) from None
        yield
