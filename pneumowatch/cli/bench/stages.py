"""The stages of a film's way, each by itself in a plain loop in this process: what the pipeline cannot do without."""

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

from db import arrivals, ledger, registry, schema
from db.outcomes import Classified
from db.seen import SeenFile
from db.session import Database
from pneumowatch import film, share
from pneumowatch.model import ModelFolder
from pneumowatch.queue import FILMS, Doorbell, make_app
from pneumowatch.settings import EMBEDDED_BROKER, Settings
from worker.classifier import Classifier

BURST: Final = 1000  # files of one transaction, as the watcher registers them
LEASE: Final = timedelta(minutes=5)
BY: Final = "bench"


@dataclass(frozen=True)
class Spent:
    """Milliseconds a film: on the clock, and of processor time on all cores."""

    wall_ms: float
    cpu_ms: float


@dataclass
class Clock:
    """Times what is done within `of`, and divides it by the number of films."""

    films: int
    spent: dict[str, Spent] = field(default_factory=dict)

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        self.spent[stage] = Spent(1000 * wall / self.films, 1000 * cpu / self.films)


def ceiling(films: Sequence[Path], classifier: Classifier, threads: int, batch_size: int) -> Spent:
    """Read, hash and decode in threads, four batches ahead; predict in batches. Nothing is queued, nothing written."""

    def fetch(path: Path) -> film.Pixels:
        data = path.read_bytes()
        hashlib.sha256(data).digest()
        return film.decode(data, classifier.side)

    clock = Clock(len(films))
    with clock.of("ceiling"), ThreadPoolExecutor(threads) as pool:
        coming = iter(films)
        waiting = deque(pool.submit(fetch, path) for path in islice(coming, 4 * batch_size))
        while waiting:
            batch: list[film.Pixels] = []
            while waiting and len(batch) < batch_size:
                batch.append(waiting.popleft().result())
                waiting.extend(pool.submit(fetch, path) for path in islice(coming, 1))
            classifier.predict(np.stack(batch))
    return clock.spent["ceiling"]


def stages(films: Sequence[Path], classifier: Classifier, settings: Settings, scratch: Path) -> dict[str, Spent]:
    """What each stage takes of a film: `read` (with SHA-256), `decode`, `predict`, `database`, `queue`."""
    clock, size = Clock(len(films)), settings.batch_size
    with clock.of("read"):
        files = [share.read(path.parent, path.name.encode(), settings.max_bytes) for path in films]
        hashes = [hashlib.sha256(file.data).hexdigest() for file in files]
    with clock.of("decode"):
        pixels = np.stack([film.decode(file.data, classifier.side) for file in files])
    with clock.of("predict"):
        for start in range(0, len(pixels), size):
            classifier.predict(pixels[start : start + size])
    seen = [SeenFile(BY, path.name.encode(), file.size, file.mtime_ns) for path, file in zip(films, files, strict=True)]
    database = Database(f"sqlite:///{scratch / 'stages.db'}")
    schema.upgrade(database)
    with clock.of("database"):
        _record(database, seen, hashes, size)
    database.close()
    with clock.of("queue"):
        _ring(len(films), settings)
    return clock.spent


def _record(database: Database, seen: list[SeenFile], hashes: list[str], size: int) -> None:
    """Register, claim and finish as watcher and worker do."""
    folder = ModelFolder(Path(), {"version": BY, "sha256": ""})
    database.write(lambda connection: registry.register(connection, folder, b"", BY))
    for start in range(0, len(seen), BURST):
        database.write(partial(arrivals.arrive, files=seen[start : start + BURST], by=BY))
    left = iter(hashes)
    while claim := database.write(lambda connection: ledger.claim(connection, size, BY, LEASE)):
        outcomes = [Classified(scan.id, next(left), 0.5, True, 0.5, BY) for scan in claim.scans]
        database.write(partial(ledger.finish, token=claim.token, outcomes=outcomes, by=BY))


def _ring(films: int, settings: Settings) -> None:
    """Announce films and take the messages from the in-process queue again."""
    app = make_app(settings.model_copy(update={"broker_url": EMBEDDED_BROKER}))
    Doorbell(app, settings).ring(range(films))
    with app.connection_for_read() as connection, connection.SimpleQueue(FILMS) as queue:
        for _ in range(0, films, settings.batch_size):
            queue.get(timeout=5).ack()
