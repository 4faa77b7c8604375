"""The Celery side of a worker: the one task, and the process that runs it."""

import logging
import threading
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from celery import Celery, signals
from celery.exceptions import CPendingDeprecationWarning, SecurityWarning
from celery.worker import state as celery_state
from celery.worker.consumer import Consumer

from db.pulse import Part
from db.session import Database
from pneumowatch import metrics
from pneumowatch.errors import ShuttingDown
from pneumowatch.logs import get
from pneumowatch.queue import FILMS, READ_SCANS, Doorbell
from pneumowatch.settings import Settings
from worker.batch import FilmBatches, films_announced
from worker.hearing import Hearing, patience
from worker.room import ReadingRoom, open_room

log = get("worker")

THREADS: Final = 4  # claims in flight: one is predicted, the others are read, decoded or written meanwhile
BATCHES_AHEAD: Final = 4  # prefetched
RECONNECT_SECONDS: Final = 5
LOOK_SECONDS: Final = 0.2


def register(app: Celery, room: ReadingRoom, batch_size: int) -> None:
    """Give the app its task, bound to this process' reading room."""

    @app.task(base=FilmBatches, name=READ_SCANS, batch_size=batch_size, shared=False)
    def read_scans(requests: Sequence[Any]) -> None:
        licence = sum(films_announced(request.args) for request in requests)
        try:
            room.read(licence)
        except ShuttingDown:
            read_scans.leave()
            log.info("left films to the next worker; shutting down")
        except Exception:
            # Nothing may escape: celery-batches would acknowledge the whole batch and forget it. The room gives back
            # what it could not read; here it could not even claim or give back: the sweep rings again after a lease.
            log.exception("films could not be claimed, or not be given back; they wait for a lease", films=licence)


class Rebuilding(ConnectionResetError):
    """The connection was not lost: this worker gives it up, and says why."""


class PromptConsumer(Consumer):
    """Celery's consumer, whose waits between attempts to reach the broker grow to 30 seconds, and whose loop over the
    in-process queue looks every two whether it is to end: here five, and a fifth of one."""

    def ensure_connected(self, conn: Any) -> Any:
        conn.ensure_connection = partial(conn.ensure_connection, interval_step=1, interval_max=RECONNECT_SECONDS)
        connected = super().ensure_connected(conn)
        if not self.hub:
            drain = connected.drain_events
            connected.drain_events = lambda timeout=None, **others: drain(timeout=LOOK_SECONDS, **others)
        return connected

    def rebuild(self, why: str) -> None:
        """From another thread: take the connection for lost, so that it is made anew, with all that hangs on it. What
        was not acknowledged on it goes back to the broker."""
        self._lost = why
        if self.hub:
            self.hub.call_soon(self.perform_pending_operations)

    _lost = ""

    def perform_pending_operations(self) -> None:
        """Called in each round of the loop that has no hub; Celery calls what is pending there, and logs its errors."""
        if self._lost:
            why, self._lost = self._lost, ""
            raise Rebuilding(why)
        super().perform_pending_operations()


def read_films(
    app: Celery,
    settings: Settings,
    inboxes: dict[str, Path],
    database: Database,
    stop: threading.Event,
    part: Part,
    device: str | None = None,
    patient: bool = True,
) -> int:
    """Open a reading room, and read films in it until SIGTERM, SIGINT or `stop`. Returns the exit code.

    `patient`: as `worker.room.open_room` has it.
    """
    try:
        room = open_room(settings, inboxes, database, device, stop, patient, part)
    except ShuttingDown:
        return 0  # before there was a film in hand
    register(app, room, settings.batch_size)
    try:
        with metrics.telling(room):
            return run_worker(app, settings, stop, watch=room.watch)
    finally:
        room.close()


def run_worker(
    app: Celery,
    settings: Settings,
    stop: threading.Event,
    queue: str = FILMS,
    threads: int = THREADS,
    watch: Callable[[Callable[[bool], None]], None] | None = None,
) -> int:
    """Consume until SIGTERM, SIGINT or `stop`; then drain: finish what is claimed, hand back what is not.

    Must be called in the main thread (Celery installs signal handlers). Returns the exit code.

    Args:
        watch: blocks, and tells whenever this worker can read no more (False), and when it can again (True).
    """
    if stop.is_set():
        return 0
    # Celery warns that root must not unpickle messages; only JSON is accepted here
    warnings.simplefilter("ignore", SecurityWarning)
    worker = app.Worker(
        pool="threads",
        concurrency=threads,
        prefetch_multiplier=BATCHES_AHEAD * settings.batch_size // threads,  # one message weighs one film at least
        queues=[queue],
        consumer_cls=PromptConsumer,
        hostname=None,
        loglevel="WARNING",
        quiet=True,
        without_heartbeat=True,
        without_gossip=True,
        without_mingle=True,
    )
    # it warns at each lost connection that it does not cancel what is being read, and has asked to hear that always
    warnings.simplefilter("ignore", CPendingDeprecationWarning)
    logging.getLogger("celery.worker.consumer.consumer").addFilter(_without_our_own)
    task = app.tasks.get(READ_SCANS)

    # at once, not when all is drained: a thread that waits, for a database that is away, say, would wait on
    def shut_down(**_: Any) -> None:
        stop.set()
        if task:
            task.close()

    def end() -> None:
        stop.wait()
        shut_down()
        celery_state.should_stop = 0

    signals.worker_shutting_down.connect(shut_down)
    threading.Thread(target=end, name="worker-stop", daemon=True).start()
    if task:
        hearing = _hearing(app, settings, worker)
        threading.Thread(target=hearing.run, args=(stop,), name="hearing", daemon=True).start()
    if watch:
        attend = partial(_attend, app, worker, queue)
        threading.Thread(target=watch, args=(attend,), name="fitness", daemon=True).start()
    worker.start()
    drained = celery_state.should_stop is not None and not celery_state.should_terminate
    stop.set()
    return 0 if drained else int(worker.exitcode or 1)  # Celery calls it a failure where Ctrl-C asked for the end


def _without_our_own(record: logging.LogRecord) -> bool:
    """Celery tells of a lost connection with a traceback, which says nothing where we have given it up."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, Rebuilding):
        record.msg, record.args, record.exc_info = f"the connection to the broker is made anew: {error}", (), None
    return True


def _attend(app: Celery, worker: Any, queue: str, fit: bool) -> None:
    """While this worker cannot read, messages go to others: those that it has, and all that come. The in-process
    queue has no others."""
    if worker.consumer.hub:
        if fit:
            app.amqp.queues.select([queue])
        else:
            app.amqp.queues.deselect([queue])
        worker.consumer.rebuild("messages come again" if fit else "this worker cannot read: messages go to others")


def _hearing(app: Celery, settings: Settings, worker: Any) -> Hearing:
    task, doorbell = app.tasks[READ_SCANS], Doorbell(app, settings)

    def rebuild() -> None:
        app.amqp.queues.select([FILMS])  # had somebody told the worker to take no more from it
        worker.consumer.rebuild("no message came although some wait")

    return Hearing(
        waiting=lambda: doorbell.unheard() + task.unread,
        heard=lambda: task.heard,
        busy=lambda: task.busy or FILMS not in app.amqp.queues.consume_from,
        rebuild=rebuild,
        seconds=patience(settings.lease_seconds),
    )
