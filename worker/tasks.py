"""Run a Celery worker: the task that processes scans, and the process around it."""

import logging
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from celery import Celery, signals
from celery.exceptions import CPendingDeprecationWarning, SecurityWarning
from celery.worker import state as celery_state

from db.session import Database
from pneumowatch import metrics
from pneumowatch.component import Component
from pneumowatch.errors import ShuttingDown
from pneumowatch.logs import get_logger
from pneumowatch.queue import READ_SCANS_TASK, SCANS_QUEUE, Announcer
from pneumowatch.settings import Settings
from worker.consumer import PromptConsumer, QueueSubscription, shorten_deliberate_reconnect
from worker.consumer_watchdog import ConsumerWatchdog, stall_timeout
from worker.pipeline import ScanProcessor, start_scan_processor
from worker.scan_batches import ScanBatches, count_announced

log = get_logger("worker")

THREADS: Final = 4  # claims in flight: one is being classified while the others are read, decoded or written
BATCHES_AHEAD: Final = 4  # batches prefetched


def register_task(app: Celery, processor: ScanProcessor, batch_size: int) -> None:
    """Register the app's task, bound to this process's `ScanProcessor`."""

    @app.task(base=ScanBatches, name=READ_SCANS_TASK, batch_size=batch_size, shared=False)
    def read_scans(requests: Sequence[Any]) -> None:
        permits = sum(count_announced(request.args) for request in requests)
        try:
            processor.process(permits)
        except ShuttingDown:
            read_scans.stop_acknowledging()
            log.info("shutting down; remaining scans are left to the next worker")
        except Exception:
            # Nothing may escape: celery-batches would acknowledge the whole batch and forget it. The processor releases
            # scans that it could not process. Here even the claim or the release failed: the sweep announces them again
            # after a lease.
            log.exception("scans could not be claimed or released; they wait until their lease ends", images=permits)


def process_scans(
    app: Celery,
    settings: Settings,
    inboxes: dict[str, Path],
    database: Database,
    stop: threading.Event,
    component: Component,
    device: str | None = None,
    wait_for_model: bool = True,
) -> int:
    """Start a `ScanProcessor` and process scans until SIGTERM, SIGINT or `stop`. Returns the exit code.

    `wait_for_model`: see `worker.pipeline.start_scan_processor`.
    """
    try:
        processor = start_scan_processor(settings, inboxes, database, device, stop, wait_for_model, component)
    except ShuttingDown:
        return 0  # nothing was claimed yet
    register_task(app, processor, settings.batch_size)
    try:
        with metrics.registered_collectors(processor):
            return run_worker(app, settings, stop, watch_health=processor.watch_health)
    finally:
        processor.close()


def run_worker(
    app: Celery,
    settings: Settings,
    stop: threading.Event,
    queue: str = SCANS_QUEUE,
    threads: int = THREADS,
    watch_health: Callable[[Callable[[bool], None]], None] | None = None,
) -> int:
    """Consume until SIGTERM, SIGINT or `stop`, then drain: finish claimed scans, return other messages to the broker.

    Must be called in the main thread, because Celery installs signal handlers. Returns the exit code.

    Args:
        watch_health: blocks; calls back with False when this worker can process no more scans, with True when it can
            again.
    """
    if stop.is_set():
        return 0
    # Celery warns that root must not unpickle messages; only JSON is accepted here
    warnings.simplefilter("ignore", SecurityWarning)
    worker = app.Worker(
        pool="threads",
        concurrency=threads,
        prefetch_multiplier=BATCHES_AHEAD * settings.batch_size // threads,  # a message weighs at least one scan
        queues=[queue],
        consumer_cls=PromptConsumer,
        hostname=None,
        loglevel="WARNING",
        quiet=True,
        without_heartbeat=True,
        without_gossip=True,
        without_mingle=True,
    )
    # Celery warns at each lost connection that running tasks are not cancelled, and enables that warning itself
    warnings.simplefilter("ignore", CPendingDeprecationWarning)
    logging.getLogger("celery.worker.consumer.consumer").addFilter(shorten_deliberate_reconnect)
    task, subscription = app.tasks.get(READ_SCANS_TASK), QueueSubscription(app, worker, queue)

    # at once, not after draining: a thread that waits for a database that is away would otherwise wait on
    def shut_down(**_: Any) -> None:
        stop.set()
        if task:
            task.close()

    def stop_worker() -> None:
        stop.wait()
        shut_down()
        celery_state.should_stop = 0

    signals.worker_shutting_down.connect(shut_down)
    threading.Thread(target=stop_worker, name="worker-stop", daemon=True).start()
    if task:
        watchdog = _consumer_watchdog(app, settings, subscription)
        threading.Thread(target=watchdog.run, args=(stop,), name="consumer-watchdog", daemon=True).start()
    if watch_health:
        threading.Thread(
            target=watch_health, args=(subscription.set_consuming,), name="circuit-breaker", daemon=True
        ).start()
    worker.start()
    drained = celery_state.should_stop is not None and not celery_state.should_terminate
    stop.set()
    return 0 if drained else int(worker.exitcode or 1)  # Celery reports a failure after Ctrl-C


def _consumer_watchdog(app: Celery, settings: Settings, subscription: QueueSubscription) -> ConsumerWatchdog:
    task, announcer = app.tasks[READ_SCANS_TASK], Announcer(app, settings)
    return ConsumerWatchdog(
        waiting=lambda: announcer.waiting() + task.buffered,
        received=lambda: task.received,
        busy=lambda: task.busy or subscription.paused,
        reconnect=lambda: subscription.resubscribe("messages wait but none was received"),
        stall_seconds=stall_timeout(settings.lease_seconds),
    )
