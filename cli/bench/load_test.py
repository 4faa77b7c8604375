"""Load tests of a running system: a burst of images, and single images while it is idle."""

import hashlib
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np

from cli.bench.rig import INBOX_NAME, Rig
from db.ledger import queries
from db.states import FINAL, State
from pneumowatch.errors import PneumowatchError

PROGRESS_POLL_SECONDS: Final = 1.0  # during a burst; coarse, because the end time is taken from the last row
FINE_POLL_SECONDS: Final = 0.004  # for a single image: the largest error of its latency
PAUSE_SECONDS: Final = (0.2, 0.4)  # between single images; random, so that they do not align with any polling
STALLED_SECONDS: Final = 60.0  # without a new result

ReportDone = Callable[[int], None]  # called with the number of images done


@dataclass(frozen=True)
class Burst:
    """A processed burst, from the first image's rename into the inbox until the last result was written."""

    images: int
    without_result: int  # of these images: rejected, or counted as duplicates
    seconds: float
    cpu_ms_per_image: dict[str, float]  # by component
    peak_bytes: dict[str, int]  # by component, since its start

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds


@dataclass(frozen=True)
class Latency:
    """Milliseconds from closing a written file until another connection saw its result committed."""

    images: int
    p50: float
    p95: float
    p99: float


def run_burst(rig: Rig, images: Sequence[Path], report_done: ReportDone = lambda done: None) -> Burst:
    """Rename images into the inbox as fast as possible, and wait until all are processed.

    The images must be on the inbox's file system. Raises PneumowatchError where no more scans are finished.
    """
    before, usage = rig.database.read(queries.counts_by_state), rig.usage()
    started = time.time()
    for image in images:
        image.rename(rig.inbox / image.name)
    _wait_until_finished(rig, sum(before[state] for state in FINAL) + len(images), len(images), report_done)
    spent = rig.usage()
    classified = rig.database.read(queries.counts_by_state)[State.CLASSIFIED] - before[State.CLASSIFIED]
    ended = rig.database.read(queries.last_finished_at) or datetime.now(UTC)
    cpu = {name: 1000 * (one.cpu_seconds - usage[name].cpu_seconds) / len(images) for name, one in spent.items()}
    peaks = {name: one.peak for name, one in spent.items()}
    return Burst(len(images), len(images) - classified, ended.timestamp() - started, cpu, peaks)


def run_single_images(rig: Rig, images: Sequence[Path], report_done: ReportDone = lambda done: None) -> Latency:
    """Write images into the inbox one by one, as a scanner would; the system is idle before each."""
    taken = []
    for number, image in enumerate(images):
        data, name = image.read_bytes(), f"single-{image.name}"
        with (rig.inbox / name).open("wb") as file:
            file.write(data)
        taken.append(1000 * _seconds_until_finished(rig, name))
        report_done(number + 1)
        time.sleep(random.uniform(*PAUSE_SECONDS))
    p50, p95, p99 = np.percentile(taken, [50, 95, 99]).tolist()
    return Latency(len(images), p50, p95, p99)


def _wait_until_finished(rig: Rig, finished: int, images: int, report_done: ReportDone) -> None:
    """Wait until `finished` scans have a final state."""
    done, moment = -1, time.monotonic()
    while done < finished:
        time.sleep(PROGRESS_POLL_SECONDS)
        now = rig.database.read(queries.count_finished)
        if now > done:
            done, moment = now, time.monotonic()
            report_done(max(0, images - (finished - done)))
        elif time.monotonic() - moment > STALLED_SECONDS:
            raise PneumowatchError(f"No result for {STALLED_SECONDS:.0f} seconds; {finished - done} scans still wait.")


def _seconds_until_finished(rig: Rig, name: str) -> float:
    """Wait until this file of the inbox has a final state. Returns the seconds."""
    started = time.perf_counter()
    path = hashlib.sha256(name.encode()).digest()
    while rig.database.read(lambda c: queries.current_state(c, INBOX_NAME, path)) not in FINAL:
        if time.perf_counter() - started > STALLED_SECONDS:
            raise PneumowatchError(f"A single image had no result after {STALLED_SECONDS:.0f} seconds.")
        time.sleep(FINE_POLL_SECONDS)
    return time.perf_counter() - started
