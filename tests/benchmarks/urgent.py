"""Time an urgent scan while 10,000 others wait, with real processes; and claims in a large table.

python tests/benchmarks/urgent.py [--quick] [--json]
"""

import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import servers  # first, because it puts tests/ on the path for the others
from figures import Figure, at_most, run, tell
from sqlalchemy import Connection, text
from support.programs import RunningCommand, environment
from support.programs import run as command
from support.services import connect

from db import schema
from db.ledger import transitions
from db.session import Database
from pneumowatch.imaging.phantom import write_phantoms

ROUTINE, QUICK_ROUTINE = 10_000, 500
SCANS, QUICK_SCANS = 1_000_000, 20_000  # in the table in which claims are timed; a tenth of them waits
DRAWN = 24  # phantoms; the others are copies with their own bytes
TIMES = 5
SECONDS = 2.0  # within which an urgent scan must have its result
CLAIM_MS = 50
PATIENCE = 0.75 * transitions.timedelta(hours=1)

Ask = Callable[[str], list[tuple[Any, ...]]]


def measure(quick: bool) -> list[Figure]:
    routine, total = (QUICK_ROUTINE, QUICK_SCANS) if quick else (ROUTINE, SCANS)
    found = []
    for name, place in (("deployed", deployed), ("up", embedded)):
        with tempfile.TemporaryDirectory(prefix="pneumowatch-urgent-") as folder, place(Path(folder)) as (part, ask):
            found += urgent(name, Path(folder), part, ask, routine)
    return found + claims(total)


@contextmanager
def deployed(folder: Path) -> Iterator[tuple[RunningCommand, Ask]]:
    """Start a watcher and a worker, on Redis and PostgreSQL."""
    (folder / "inbox" / "STAT").mkdir(parents=True)
    with servers.servers() as own:
        env = environment(
            inboxes=f"ward={folder / 'inbox'}",
            data_dir=folder / "data",
            database_url=own.database_url,
            broker_url=own.broker_url,
        )
        command("db", "upgrade", cwd=folder, env=env)
        with (
            RunningCommand(("watch",), folder, folder / "watch.log", env),
            RunningCommand(("work",), folder, folder / "log", env) as worker,
        ):
            worker.wait_until_said("model ready")
            with connect(own.database_url) as connection:
                yield worker, lambda question: connection.execute(question).fetchall()


@contextmanager
def embedded(folder: Path) -> Iterator[tuple[RunningCommand, Ask]]:
    (folder / "inbox" / "STAT").mkdir(parents=True)
    with RunningCommand(("up",), folder, folder / "log", environment()) as up:
        up.wait_until_said("model ready")
        with closing(sqlite3.connect(f"file:{folder}/data/pneumowatch.db?mode=ro", uri=True)) as connection:
            yield up, lambda question: connection.execute(question).fetchall()


def urgent(name: str, folder: Path, part: RunningCommand, ask: Ask, routine: int) -> list[Figure]:
    """Drop routine images at once; when all have a row, drop urgent ones, each after the one before is finished."""
    drawn = folder / "drawn"
    drawn.mkdir()
    write_phantoms(drawn, DRAWN)
    images = sorted(drawn.iterdir())
    outside = folder / "routine"
    outside.mkdir()
    for number in range(routine):
        copy(images[number % DRAWN], outside / f"{number:05}.jpeg", number)
    outside.rename(folder / "inbox" / "routine")
    part.wait_until(lambda: ask("SELECT count(*) FROM scans")[0][0] >= routine, 300)
    tell(f"{name}: {routine:,} images registered")
    seconds, waiting = [], []
    for number in range(TIMES):
        waiting.append(ask("SELECT count(*) FROM scans WHERE state = 'queued'")[0][0])
        copy(images[number], folder / "image", routine + number)
        started = time.monotonic()
        (folder / "image").rename(folder / "inbox" / "STAT" / f"{number}.jpeg")
        question = f"SELECT count(*) FROM scan_ledger WHERE path = 'STAT/{number}.jpeg' AND finished_at IS NOT NULL"
        part.wait_until(lambda question=question: ask(question)[0][0] == 1, 300)
        seconds.append(time.monotonic() - started)
    return [
        Figure(f"{name}: scans waiting when the first of {TIMES} urgent ones arrived", waiting[0]),
        Figure(f"{name}: scans waiting when the last of them arrived", waiting[-1]),
        Figure(f"{name}: urgent scan to its result, median", float(np.median(seconds)), "s"),
        at_most(f"{name}: urgent scan to its result, worst of {TIMES}", max(seconds), "s", SECONDS),
    ]


def copy(image: Path, path: Path, number: int) -> None:
    shutil.copyfile(image, path)
    with path.open("ab") as file:
        file.write(number.to_bytes(4, "big"))  # after the picture: another file with the same image


def claims(total: int) -> list[Figure]:
    """Time claims: a tenth of the table waits, half of that beyond the cap, and every hundredth scan is urgent."""
    found = []
    with servers.servers() as own, tempfile.TemporaryDirectory(prefix="pneumowatch-urgent-") as folder:
        for url in (own.database_url, f"sqlite:///{folder}/ledger.db"):
            with closing(Database(url)) as database:
                schema.upgrade(database)
                database.write(partial(fill, total=total))
                for case, patience in (("within the cap", None), ("half beyond the cap", PATIENCE)):
                    found.append(
                        timed(database, f"claim of 32, {total:,} rows, {total // 10:,} wait, {case}", patience)
                    )
    return found


def fill(connection: Connection, total: int) -> None:
    sqlite = connection.dialect.name == "sqlite"
    numbers = (
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :total)"
        if sqlite
        else "WITH n (i) AS (SELECT * FROM generate_series(1, :total))"
    )
    digest = "CAST(printf('%032d', i) AS BLOB)" if sqlite else "sha256(int8send(i))"
    at = "strftime('%Y-%m-%d %H:%M:%f', 'now', {})" if sqlite else "now() + interval {}"
    old, new = at.format("'-2 hours'"), at.format("'-1 minutes'")
    when = f"CASE WHEN i < :total - :waiting / 2 THEN {old} ELSE {new} END"
    connection.execute(
        text(
            f"{numbers} INSERT INTO scans (inbox, path_sha256, path_bytes, path, size, mtime_ns, state, priority, "
            "received_at, changed_at, not_before, announced_at, lost_leases, lost_leases_exclusive, exclusive) "
            f"SELECT 'ward', {digest}, {digest}, 'image', 1, i, "
            "CASE WHEN i <= :total - :waiting THEN 'rejected' ELSE 'queued' END, "
            f"CASE WHEN i % 100 = 0 THEN 1 ELSE 5 END, {when}, {when}, {when}, {when}, 0, 0, false FROM n"
        ),
        {"total": total, "waiting": total // 10},
    )


def timed(database: Database, name: str, patience: Any) -> Figure:
    milliseconds = []
    for _ in range(100):
        started = time.perf_counter()
        held = database.write(lambda c: transitions.claim(c, 32, "bench", transitions.timedelta(minutes=2), patience))
        milliseconds.append(1000 * (time.perf_counter() - started))
        assert held is not None
    p95 = float(np.percentile(milliseconds, 95))
    return at_most(f"{database.dialect}: {name}, p95", p95, "ms", CLAIM_MS)


if __name__ == "__main__":
    run(__doc__, measure)
