"""Measure queue and database alone, on Redis and PostgreSQL: scans a second from registration to the last outcome.

Measure once with a classifier that costs nothing, and with one that waits 200 ms at each batch, as for a busy GPU, to
see how much faster eight workers are than one.

    python tests/benchmarks/queue_and_database.py [--quick] [--json]
"""

import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

from figures import Figure, at_least, run, tell
from servers import Servers, servers
from sqlalchemy import Connection, func, select, text
from stand_in_worker import MTIME_NS, SIZE
from support.waiting import eventually

from cli.bench import rig
from cli.bench.processes import resource_usage
from db.ledger import queries, registration
from db.ledger.file_version import FileVersion
from db.models import Scan
from db.session import Database
from db.states import State
from pneumowatch import settings
from pneumowatch.queue import Announcer, make_celery_app

BURST = 1000  # files in one transaction, as the watcher registers them
WAIT_SECONDS = 0.2  # of one predict
FREE_IMAGES = 15_000
WAITING_IMAGES = 1600  # for one worker; eight workers get eight times as many
QUICK = 8  # times fewer
IMAGES_A_SECOND = 1500
WORKERS, TIMES_ONE = 8, 7
LIMIT_SECONDS = 1800  # reached only by a failure


def measure(quick: bool) -> list[Figure]:
    share = QUICK if quick else 1
    free, spent = trial(1, 0, FREE_IMAGES // share)
    one, _ = trial(1, WAIT_SECONDS, WAITING_IMAGES // share)
    many, _ = trial(WORKERS, WAIT_SECONDS, WORKERS * WAITING_IMAGES // share)
    return [
        at_least("queue and database, a classifier that costs nothing", free, "images/s", IMAGES_A_SECOND),
        *(Figure(f"... CPU of {name}", ms, "ms per image") for name, ms in spent.cpu_ms.items()),
        Figure("... size of the database", spent.stored, "bytes per image"),
        Figure("... written to PostgreSQL's log (WAL)", spent.logged, "bytes per image"),
        Figure("a classifier that waits 200 ms per batch, one worker", one, "images/s"),
        Figure(f"... {WORKERS} workers", many, "images/s"),
        at_least(f"... {WORKERS} workers against one", many / one, "times", TIMES_ONE),
    ]


class Spent(NamedTuple):
    """The cost of an image: milliseconds of processor time of each component, and bytes on PostgreSQL's disk."""

    cpu_ms: dict[str, float]
    stored: float
    logged: float


def trial(workers: int, wait: float, images: int) -> tuple[float, Spent]:
    """Return images a second, and the cost of each."""
    with ExitStack() as stack:
        own = stack.enter_context(servers())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pneumowatch-bench-")))
        given = settings.load_settings(database_url=own.database_url, broker_url=own.broker_url)
        environment = rig.process_environment(
            DATABASE_URL=own.database_url, BROKER_URL=own.broker_url, INBOXES=f"{rig.INBOX_NAME}={folder}"
        )
        names = [f"worker {number + 1}" for number in range(workers)]
        processes = [stack.enter_context(rig.process(name, stand_in(wait), folder, environment)) for name in names]
        for name, process in zip(names, processes, strict=True):
            rig.wait_for_log_line(rig.READY_LINE, name, folder, process)
        pids = [process.pid for process in processes]
        database = Database(own.database_url)
        rig.Rig(folder, database, {str(pid): pid for pid in pids}).wait_until_idle()
        before, on_disk = costs(own, pids), database.read(sizes)
        rate = read_all(database, Announcer(make_celery_app(given), given), images)
        cpu_ms = {name: 1000 * (seconds - before[name]) / images for name, seconds in costs(own, pids).items()}
        written = [(new - old) / images for new, old in zip(database.read(sizes), on_disk, strict=True)]
        database.close()
    tell(f"{workers} workers, {wait} s per batch: {rate:.0f} images/s")
    return rate, Spent(cpu_ms, *written)


def sizes(connection: Connection) -> tuple[int, int]:
    """Return the bytes of the database, and of everything ever written to its log."""
    logged = func.pg_wal_lsn_diff(func.pg_current_wal_lsn(), text("'0/0'"))
    size, written = connection.execute(select(func.pg_database_size(func.current_database()), logged)).one()
    return int(size), int(written)


def read_all(database: Database, announcer: Announcer, images: int) -> float:
    """Register and announce files as the watcher does, and wait for their outcomes. Return images a second."""
    started = time.time()
    for start in range(0, images, BURST):
        numbers = range(start, min(start + BURST, images))
        seen = [FileVersion(rig.INBOX_NAME, f"image-{number}.jpeg".encode(), SIZE, MTIME_NS) for number in numbers]
        announcer.announce(database.write(partial(registration.register_files, files=seen, by="bench")).to_announce)
    eventually(lambda: not database.read(queries.count_waiting), LIMIT_SECONDS, every=0.25)
    counts = database.read(queries.counts_by_state)
    if counts[State.CLASSIFIED] != images:
        raise RuntimeError(f"not every scan was classified: {counts}")
    ended = database.read(lambda connection: connection.scalar(select(func.max(Scan.finished_at))))
    return images / (ended.timestamp() - started)


def stand_in(wait: float) -> list[str]:
    return [sys.executable, str(Path(__file__).with_name("stand_in_worker.py")), str(wait)]


def costs(own: Servers, pids: list[int]) -> dict[str, float]:
    """Return the seconds of processor time so far, by component; this process registers and announces."""
    spent = {name: one.cpu_seconds for name, one in own.costs().items()}
    spent["the workers"] = sum(resource_usage(pid).cpu_seconds for pid in pids)
    return spent | {"registering and announcing": time.process_time()}


if __name__ == "__main__":
    run(__doc__, measure)
