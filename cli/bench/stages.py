"""Measure each stage of the pipeline alone, in a plain loop in this process: the unavoidable cost of an image."""

import hashlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np

from db import schema
from db.ledger import registration, transitions
from db.ledger.file_version import FileVersion
from db.ledger.outcomes import Classified
from db.registry import model_registry
from db.session import Database
from pneumowatch import shared_files
from pneumowatch.imaging import reader
from pneumowatch.model_folder import ModelFolder
from pneumowatch.queue import SCANS_QUEUE, Announcer, make_celery_app
from pneumowatch.settings import EMBEDDED_BROKER, Settings
from worker.inference.classifier import Classifier

REGISTRATION_BATCH: Final = 1000  # files per transaction, as in the watcher
LEASE: Final = timedelta(minutes=5)
BENCH: Final = "bench"


@dataclass(frozen=True)
class StageTime:
    """Milliseconds per image: wall time, and CPU time on all cores."""

    wall_ms: float
    cpu_ms: float


@dataclass
class StageClock:
    """Times the blocks within `measure`, per image."""

    images: int
    spent: dict[str, StageTime] = field(default_factory=dict)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Measure the block as this stage."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        self.spent[stage] = StageTime(1000 * wall / self.images, 1000 * cpu / self.images)


def measure_ceiling(images: Sequence[Path], classifier: Classifier, threads: int, batch_size: int) -> StageTime:
    """Measure the ceiling: no queue, no database.

    Threads read, hash and decode, four batches ahead; the model predicts in batches.
    """

    def load(path: Path) -> reader.Pixels:
        data = path.read_bytes()
        hashlib.sha256(data).digest()
        return reader.read_pixels(data, classifier.side)

    clock = StageClock(len(images))
    with clock.measure("ceiling"), ThreadPoolExecutor(threads) as pool:
        remaining = iter(images)
        waiting = deque(pool.submit(load, path) for path in islice(remaining, 4 * batch_size))
        while waiting:
            batch: list[reader.Pixels] = []
            while waiting and len(batch) < batch_size:
                batch.append(waiting.popleft().result())
                waiting.extend(pool.submit(load, path) for path in islice(remaining, 1))
            classifier.predict(np.stack(batch))
    return clock.spent["ceiling"]


def measure_stages(
    images: Sequence[Path], classifier: Classifier, settings: Settings, scratch: Path
) -> dict[str, StageTime]:
    """Measure the time per image of each stage: `read` (with SHA-256), `decode`, `predict`, `database`, `queue`."""
    clock, size = StageClock(len(images)), settings.batch_size
    with clock.measure("read"):
        files = [shared_files.read_file(path.parent, path.name.encode(), settings.max_bytes) for path in images]
        hashes = [hashlib.sha256(file.data).hexdigest() for file in files]
    with clock.measure("decode"):
        pixels = np.stack([reader.read_pixels(file.data, classifier.side) for file in files])
    with clock.measure("predict"):
        for start in range(0, len(pixels), size):
            classifier.predict(pixels[start : start + size])
    seen = [
        FileVersion(BENCH, path.name.encode(), file.size, file.mtime_ns)
        for path, file in zip(images, files, strict=True)
    ]
    database = Database(f"sqlite:///{scratch / 'stages.db'}")
    schema.upgrade(database)
    with clock.measure("database"):
        _write_ledger(database, seen, hashes, size)
    database.close()
    with clock.measure("queue"):
        _announce(len(images), settings)
    return clock.spent


def _write_ledger(database: Database, seen: list[FileVersion], hashes: list[str], size: int) -> None:
    """Register, claim and finish as watcher and worker do."""
    folder = ModelFolder(Path(), {"version": BENCH, "sha256": ""})
    database.write(lambda connection: model_registry.register_model(connection, folder, b"", BENCH))
    for start in range(0, len(seen), REGISTRATION_BATCH):
        database.write(partial(registration.register_files, files=seen[start : start + REGISTRATION_BATCH], by=BENCH))
    left = iter(hashes)
    while claim := database.write(lambda connection: transitions.claim(connection, size, BENCH, LEASE)):
        outcomes = [Classified(scan.id, next(left), 0.5, True, 0.5, BENCH) for scan in claim.scans]
        database.write(partial(transitions.record_outcomes, token=claim.token, outcomes=outcomes, by=BENCH))


def _announce(images: int, settings: Settings) -> None:
    """Announce scans and take the messages from the in-process queue again."""
    app = make_celery_app(settings.model_copy(update={"broker_url": EMBEDDED_BROKER}))
    Announcer(app, settings).announce(range(images))
    with app.connection_for_read() as connection, connection.SimpleQueue(SCANS_QUEUE) as queue:
        for _ in range(0, images, settings.batch_size):
            queue.get(timeout=5).ack()
