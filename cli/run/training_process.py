"""The nightly training in a process of its own, behind the films: begun by a timetable, or by a message."""

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

TERMINATE_SECONDS: Final = 30.0  # within which a training that is told to stop has written so into its row
REANNOUNCE_SECONDS: Final = 60.0  # before a training that is due is announced again: it may be about to begin


def run_training_process(settings: Settings, stop: threading.Event) -> bool:
    """Have another process look whether a training is due, and run it; until it has ended, or `stop`, which ends it.
    Returns False where it failed."""
    command = [sys.executable, "-m", "pneumowatch", "retrain", "--nightly", "--data", str(settings.data_dir.absolute())]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while child.poll() is None:
        if stop.wait(1):
            _terminate(child)
    if child.returncode and not stop.is_set():
        log.error("the training's process failed", code=child.returncode)
    return child.returncode == 0


def work_training_queue(app: Celery, settings: Settings, stop: threading.Event, component: Component) -> int:
    """Work on the training queue, one message at a time. Returns the exit code. `component` is told."""
    from worker.tasks import run_worker

    # before the training is over: it takes hours, and its row, not its message, is what survives a crash
    @app.task(name=RETRAIN_TASK, acks_late=False, shared=False)
    def retrain() -> None:
        component.set_status("training, if one is due")
        run_training_process(settings, stop)
        component.set_status("idle")
        component.record_progress(looked=1)

    component.set_status("idle")
    return run_worker(app, settings, stop, TRAINING_QUEUE, threads=1)


def training_announcer(announcer: Announcer) -> Callable[[], bool]:
    """Announces a training that is due, again after a while where it is still due then; raises BrokerUnavailable."""
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
    """A thread that follows the timetable until `stop` is set, as it must be before this is left. `component` is told."""

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
