"""`up`: all components as threads of one process, on SQLite and an in-process queue; only decoders are processes."""

import fcntl
import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from sqlalchemy import Connection

from cli import outbox as outbox_command
from cli.output import console, error_console, print_table
from cli.run import dispatchers, training_process
from db import deployment, schema
from db.health.heartbeat_writer import HeartbeatWriter, writing_heartbeats
from db.health.ledger_metrics import LedgerCollector
from db.ledger import outbox, queries, transitions
from db.ledger.sweep import Sweeper
from db.session import Database
from db.states import State
from pneumowatch import logs, metrics
from pneumowatch.errors import SettingsError, ShuttingDown
from pneumowatch.queue import Announcer, component_name, make_celery_app
from pneumowatch.settings import Settings
from watcher.intake import Watcher
from watcher.reconcile import reconcile_inboxes

COMPLETION_POLL_SECONDS: Final = 0.2  # how often `--once` checks whether it is done


def run_embedded(
    settings: Settings, inboxes: dict[str, Path], stop: threading.Event, once: bool, review_app: bool = False
) -> int:
    """Run everything until `stop` or, with `once`, until all files are processed. Returns the exit code.

    Args:
        review_app: serve the review app too; ignored with `once`.
    """
    if settings.database_url or not settings.embedded_queue:
        raise SettingsError(
            "`up` uses its own SQLite database and queue. PNEUMOWATCH_DATABASE_URL and PNEUMOWATCH_BROKER_URL are for "
            "`watch` and `work`: unset them, or run those commands."
        )
    logs.configure(settings.log_format, logging.WARNING if once else logging.INFO)
    with lock_data_dir(settings.data_dir):
        return _Embedded(settings, inboxes, stop, review_app and not once).run(once)


class _Embedded:
    def __init__(self, settings: Settings, inboxes: dict[str, Path], stop: threading.Event, review_app: bool) -> None:
        self._settings = settings
        self._with_review_app = review_app
        self._inboxes = inboxes
        self._stop = stop
        self._database = Database(settings.database, self._stop)
        self._app = make_celery_app(settings)
        self._announcer = Announcer(self._app, settings)

    def run(self, once: bool) -> int:
        schema.upgrade(self._database)
        deployment.load_patient_key(self._database, self._settings)  # to fail early: a wrong key raises here
        self._database.write(lambda connection: _take_over(connection, self._settings.max_attempts))
        self._dispatchers = dispatchers.make_dispatchers(self._settings, self._database, self._inboxes)
        collector = LedgerCollector(Database(self._settings.database), self._settings)
        with writing_heartbeats(self._database) as writer, metrics.serving_metrics(self._settings, writer, collector):
            code = self._run_components(once, writer)
            writer.failed = code != 0 and not once
        return code

    def _run_components(self, once: bool, writer: HeartbeatWriter) -> int:
        self._worker, self._schedule = writer.add_component("worker"), writer.add_component("schedule")
        self._schedule.set_status("sweeping")
        self._watcher = Watcher(
            self._settings, self._inboxes, self._database, self._announcer, self._stop, writer.add_component("watcher")
        )
        sweep = threading.Thread(target=self._sweep, name="sweep")
        with ExitStack() as components:
            if self._with_review_app:
                components.enter_context(self._review_app())  # stopped last: readers still see results while draining
            if not once:
                self._print_banner()
            components.enter_context(self._watcher.running())
            if not once:
                components.enter_context(self._running_nightly())
                delivering = dispatchers.running_dispatchers(
                    self._settings, self._dispatchers, self._stop, self._schedule
                )
                components.enter_context(delivering)
            sweep.start()
            try:
                code = self._run_worker_once() if once else self._run_worker()
            finally:
                self._stop.set()
                sweep.join()
        if once:
            return self._print_summary() if code == 0 and not self._watcher.broken else 1
        return 1 if self._watcher.broken else code

    def _run_worker(self, wait_for_model: bool = True) -> int:
        """Process scans until stopped. `wait_for_model`: wait until a model can be loaded.

        TensorFlow is loaded here, while the watcher already registers files.
        """
        from worker.tasks import process_scans

        given = self._settings, self._inboxes, self._database, self._stop, self._worker
        return process_scans(self._app, *given, wait_for_model=wait_for_model)

    def _run_worker_once(self) -> int:
        while not self._all_finished():
            if self._stop.wait(COMPLETION_POLL_SECONDS):
                return 1
            if self._watcher.unsettled or self._database.read(queries.count_waiting):
                threading.Thread(target=self._show_progress, name="progress").start()
                return self._run_worker(wait_for_model=False)
        return 0

    def _all_finished(self) -> bool:
        return self._watcher.initial_scan_done.is_set() and self._database.read(queries.count_waiting) == 0

    def _show_progress(self) -> None:
        """Show a progress bar, and end the run once every scan has a final state."""
        columns = (
            TextColumn("processing"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("scans"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        try:
            before = self._database.read(queries.count_finished)
            with Progress(*columns, console=error_console) as progress:
                bar = progress.add_task("processing", total=None)
                while not self._stop.wait(COMPLETION_POLL_SECONDS):
                    done, waiting = self._database.read(
                        lambda c: (queries.count_finished(c) - before, queries.count_waiting(c))
                    )
                    progress.update(bar, completed=done, total=done + waiting + self._watcher.unsettled)
                    if self._all_finished():
                        return
        except ShuttingDown:
            pass
        finally:
            self._stop.set()

    def _sweep(self) -> None:
        given = self._settings
        sweeper = Sweeper(
            self._database,
            self._announcer.announce,
            self._announcer.outstanding,
            given.lease_seconds,
            given.max_attempts,
            component_name("sweep"),
        )
        with suppress(ShuttingDown):
            sweeper.run(self._stop, given.sweep_seconds, self._schedule)

    @contextmanager
    def _running_nightly(self) -> Iterator[None]:
        """Run the nightly training in a process of its own: as a thread it would delay scans."""
        begin = partial(training_process.run_training_process, self._settings, self._stop)
        with training_process.running_timetable(self._settings, self._database, begin, self._stop, self._schedule):
            yield

    @contextmanager
    def _review_app(self) -> Iterator[None]:
        """Serve the review app on loopback only, and print a one-time sign-in link."""
        from review.access.one_time_sign_in import OneTimeLink
        from review.app import create_app as make_review_app
        from review.server import Server

        given, link = self._settings, OneTimeLink()
        own = Database(given.database)  # readers must see an error during an outage; the worker's database waits
        app = make_review_app(given, own, inboxes=self._inboxes, announcer=self._announcer, one_time_link=link)
        with closing(own), Server(app, port=given.review_port, allow_other_port=True) as server:
            console.print(f"Review: {server.url}{link.path()}", markup=False, highlight=False, soft_wrap=True)
            console.print("The link signs you in once, within ten minutes; `pneumowatch users add` creates accounts.")
            yield

    def _print_banner(self) -> None:
        data = self._settings.data_dir
        for name, folder in self._inboxes.items():
            console.print(f"Watching [bold]{folder}[/bold] ({name}): copy images there.")
        console.print(f"Results: [bold]pneumowatch flagged --data {data}[/bold], or SQL: sqlite3 {data}/pneumowatch.db")
        console.print("Ctrl-C ends it. For research and triage only; not a medical device.")

    def _print_summary(self) -> int:
        dispatchers.deliver_due(self._dispatchers)
        counts = self._database.read(queries.counts_by_state)
        report = reconcile_inboxes(self._database, self._inboxes)
        print_table(
            "The ledger", [{"state": state, "scans": str(count)} for state, count in counts.items()], ["state", "scans"]
        )
        unscored = self._database.read(lambda c: queries.count_view_rows(c, "unscored_cases"))
        if unscored:
            console.print(
                f"{unscored} files have no result: `pneumowatch unscored --data {self._settings.data_dir}` says why."
            )
        for line in outbox_command.summary_lines(self._database.read(outbox.counts_by_channel)):
            console.print(line)
        console.print(
            "The ledger is closed."
            if report.closed
            else "Files are missing from the ledger: `pneumowatch reconcile` lists them."
        )
        waiting = self._database.read(queries.count_waiting)
        if waiting:
            console.print(f"{waiting} scans still wait; the next run continues with them.")
        return 0 if report.closed and not waiting and not counts[State.FAILED] else 1


def _take_over(connection: Connection, max_attempts: int) -> None:
    """Release claims and announcements of an earlier process. No other can hold any, as the data folder is locked."""
    transitions.release_all(connection, max_attempts, component_name("up"))
    outbox.release_claims(connection)


@contextmanager
def lock_data_dir(data_dir: Path) -> Iterator[None]:
    """Lock the data folder for this process. Raises SettingsError where another `up` holds it, or it is read-only."""
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
                f"Another `pneumowatch up` uses {data_dir}; stop it, or name another folder with --data."
            ) from None
        yield
