"""Trials of a running system: a heap of films at once, and single films on an idle one."""

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

PROGRESS_POLL_SECONDS: Final = 1.0  # while a heap is read; when the last film was done is asked of its row
FINE_POLL_SECONDS: Final = 0.004  # while a single film is; it is found committed this late at most
PAUSE_SECONDS: Final = (0.2, 0.4)  # seconds between single films, drawn, so that they fall in step with nothing
STALLED_SECONDS: Final = 60.0  # without a new result

ReportDone = Callable[[int], None]  # told how many films are done


@dataclass(frozen=True)
class Burst:
    """A heap of films read, from the first one's rename into the inbox until the last result was written."""

    images: int
    without_result: int  # of them: rejected, or taken for duplicates
    seconds: float
    cpu_ms_per_image: dict[str, float]  # by part
    peak_bytes: dict[str, int]  # by part, since its start

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds


@dataclass(frozen=True)
class Latency:
    """Milliseconds from the close of a written film until another connection saw its result committed."""

    images: int
    p50: float
    p95: float
    p99: float


def run_burst(rig: Rig, images: Sequence[Path], report_done: ReportDone = lambda done: None) -> Burst:
    """Move films of the inbox' own file system into it, as fast as can be, and wait until all have been read.

    Raises PneumowatchError where no film is finished any more.
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
    """Write each film into the inbox, one after another, as a scanner would; each finds the system idle."""
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
    """Until so many scans have a final state."""
    done, moment = -1, time.monotonic()
    while done < finished:
        time.sleep(PROGRESS_POLL_SECONDS)
        now = rig.database.read(queries.count_finished)
        if now > done:
            done, moment = now, time.monotonic()
            report_done(max(0, images - (finished - done)))
        elif time.monotonic() - moment > STALLED_SECONDS:
            raise PneumowatchError(f"No result for {STALLED_SECONDS:.0f} seconds; {finished - done} films still wait.")


def _seconds_until_finished(rig: Rig, name: str) -> float:
    """Seconds from now until this file of the inbox has a final state."""
    started = time.perf_counter()
    path = hashlib.sha256(name.encode()).digest()
    while rig.database.read(lambda c: queries.current_state(c, INBOX_NAME, path)) not in FINAL:
        if time.perf_counter() - started > STALLED_SECONDS:
            raise PneumowatchError(f"A single film had no result after {STALLED_SECONDS:.0f} seconds.")
        time.sleep(FINE_POLL_SECONDS)
    return time.perf_counter() - started
