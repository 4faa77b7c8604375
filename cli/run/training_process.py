"""Run the nightly training in a niced child process, started by the timetable or by a message."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from celery import Celery

from db.session import Database
from pneumowatch.component import Component
from pneumowatch.errors import ShuttingDown
from pneumowatch.logs import get_logger
from pneumowatch.queue import RETRAIN_TASK, TRAINING_QUEUE, Announcer
from pneumowatch.settings import Settings
from trainer.nightly import timetable

if TYPE_CHECKING:
    from subprocess import Popen

log = get_logger("training")

TERMINATE_SECONDS: Final = 30.0  # that a training gets after SIGTERM to record in its row that it was stopped
REANNOUNCE_SECONDS: Final = 60.0  # before a training that is due is announced again: it may be about to start


def run_training_process(settings: Settings, stop: threading.Event) -> bool:
    """Run `retrain --nightly` in a child process, which trains if a training is due.

    Blocks until the child has ended; `stop` ends it. Returns False where it failed.
    """
    command = [sys.executable, "-m", "pneumowatch", "retrain", "--nightly", "--data", str(settings.data_dir.absolute())]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while child.poll() is None:
        if stop.wait(1):
            _terminate(child)
    if child.returncode and not stop.is_set():
        log.error("the training's process failed", code=child.returncode)
    return child.returncode == 0


def work_training_queue(app: Celery, settings: Settings, stop: threading.Event, component: Component) -> int:
    """Consume the training queue, one message at a time. Returns the exit code.

    `component` receives status and progress for the heartbeat.
    """
    from worker.tasks import run_worker

    # acknowledged early: a training takes hours, and after a crash its row is the record, not its message
    @app.task(name=RETRAIN_TASK, acks_late=False, shared=False)
    def retrain() -> None:
        component.set_status("training, if one is due")
        run_training_process(settings, stop)
        component.set_status("idle")
        component.record_progress(looked=1)

    component.set_status("idle")
    return run_worker(app, settings, stop, TRAINING_QUEUE, threads=1)


def training_announcer(announcer: Announcer) -> Callable[[], bool]:
    """Return a function that announces a due training, at most once a minute. It raises BrokerUnavailable."""
    announced_at = -REANNOUNCE_SECONDS

    def announce() -> bool:
        nonlocal announced_at
        if time.monotonic() - announced_at >= REANNOUNCE_SECONDS:
            announcer.announce_training()
            announced_at = time.monotonic()
        return True

    return announce


@contextmanager
def running_timetable(
    settings: Settings, database: Database, begin: Callable[[], bool], stop: threading.Event, component: Component
) -> Iterator[None]:
    """Follow the training timetable in a thread until `stop` is set; sets `stop` on exit.

    `component` receives status and progress for the heartbeat.
    """

    def follow() -> None:
        with suppress(ShuttingDown):
            timetable.follow_timetable(settings, database, begin, stop, component)

    thread = threading.Thread(target=follow, name="timetable")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _terminate(child: "Popen[bytes]") -> None:
    child.terminate()
    try:
        child.wait(TERMINATE_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
