"""The nightly training in a process of its own, behind the films: begun by a timetable, or by a message."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from celery import Celery

from db.pulse import Part
from db.session import Database
from pneumowatch.errors import ShuttingDown
from pneumowatch.logs import get
from pneumowatch.queue import RETRAIN, TRAINING, Doorbell
from pneumowatch.settings import Settings
from trainer import timetable

if TYPE_CHECKING:
    from subprocess import Popen

log = get("training")

GRACE_SECONDS: Final = 30.0  # within which a training that is told to stop has written so into its row
AGAIN_SECONDS: Final = 60.0  # before a training that is due is announced again: it may be about to begin


def run(settings: Settings, stop: threading.Event) -> bool:
    """Have another process look whether a training is due, and run it; until it has ended, or `stop`, which ends it.
    Returns False where it failed."""
    command = [sys.executable, "-m", "pneumowatch", "retrain", "--nightly", "--data", str(settings.data_dir.absolute())]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while child.poll() is None:
        if stop.wait(1):
            _end(child)
    if child.returncode and not stop.is_set():
        log.error("the training's process failed", code=child.returncode)
    return child.returncode == 0


def work(app: Celery, settings: Settings, stop: threading.Event, part: Part) -> int:
    """Work on the training queue, one message at a time. Returns the exit code. `part` is told."""
    from worker.tasks import run_worker

    # before the training is over: it takes hours, and its row, not its message, is what survives a crash
    @app.task(name=RETRAIN, acks_late=False, shared=False)
    def retrain() -> None:
        part.say("training, if one is due")
        run(settings, stop)
        part.say("idle")
        part.did(looked=1)

    part.say("idle")
    return run_worker(app, settings, stop, TRAINING, threads=1)


def ringing(doorbell: Doorbell) -> Callable[[], bool]:
    """Announces a training that is due, again after a while where it is still due then; raises BrokerAway."""
    rung = -AGAIN_SECONDS

    def ring() -> bool:
        nonlocal rung
        if time.monotonic() - rung >= AGAIN_SECONDS:
            doorbell.ring_for_training()
            rung = time.monotonic()
        return True

    return ring


@contextmanager
def following(
    settings: Settings, database: Database, begin: Callable[[], bool], stop: threading.Event, part: Part
) -> Iterator[None]:
    """A thread that follows the timetable until `stop` is set, as it must be before this is left. `part` is told."""

    def follow() -> None:
        with suppress(ShuttingDown):
            timetable.follow(settings, database, begin, stop, part)

    thread = threading.Thread(target=follow, name="timetable")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _end(child: "Popen[bytes]") -> None:
    child.terminate()
    try:
        child.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
