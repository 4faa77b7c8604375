"""The Celery side of a worker: the one task, and the process that runs it."""

import logging
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from celery import Celery, signals
from celery.exceptions import CPendingDeprecationWarning, SecurityWarning
from celery.worker import state as celery_state

from db.pulse import Part
from db.session import Database
from pneumowatch import metrics
from pneumowatch.errors import ShuttingDown
from pneumowatch.logs import get
from pneumowatch.queue import FILMS, READ_SCANS, Doorbell
from pneumowatch.settings import Settings
from worker.batch import FilmBatches, films_announced
from worker.consumer import Attention, PromptConsumer, without_our_own
from worker.hearing import Hearing, patience
from worker.room import ReadingRoom, open_room

log = get("worker")

THREADS: Final = 4  # claims in flight: one is predicted, the others are read, decoded or written meanwhile
BATCHES_AHEAD: Final = 4  # prefetched


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
    logging.getLogger("celery.worker.consumer.consumer").addFilter(without_our_own)
    task, attention = app.tasks.get(READ_SCANS), Attention(app, worker, queue)

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
        hearing = _hearing(app, settings, attention)
        threading.Thread(target=hearing.run, args=(stop,), name="hearing", daemon=True).start()
    if watch:
        threading.Thread(target=watch, args=(attention.turn,), name="fitness", daemon=True).start()
    worker.start()
    drained = celery_state.should_stop is not None and not celery_state.should_terminate
    stop.set()
    return 0 if drained else int(worker.exitcode or 1)  # Celery calls it a failure where Ctrl-C asked for the end


def _hearing(app: Celery, settings: Settings, attention: Attention) -> Hearing:
    task, doorbell = app.tasks[READ_SCANS], Doorbell(app, settings)
    return Hearing(
        waiting=lambda: doorbell.unheard() + task.unread,
        heard=lambda: task.heard,
        busy=lambda: task.busy or attention.turned_away,
        rebuild=lambda: attention.renew("no message came although some wait"),
        seconds=patience(settings.lease_seconds),
    )
