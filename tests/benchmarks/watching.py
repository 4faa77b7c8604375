"""Measure the watcher, on Redis and PostgreSQL: files present at its start, a restart, a burst, and its memory.

python tests/benchmarks/watching.py [--quick] [--json]
python tests/benchmarks/watching.py --watch     used for the restart: a watcher that logs when it has seen everything
"""

import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from figures import Figure, at_least, at_most, run, tell
from servers import servers
from sqlalchemy import func, select
from support.waiting import eventually

from cli.bench import rig
from cli.bench.processes import resource_usage
from db.models import Scan
from db.session import Database
from pneumowatch import logs, settings
from pneumowatch.queue import Announcer, make_celery_app

PRESENT, QUICK_PRESENT = 100_000, 5_000
BURST, QUICK_BURST = 10_000, 1_000
A_FOLDER = 1000  # files in one folder
BYTES = 100  # in a file; the watcher never reads them
SECONDS_PRESENT, SECONDS_RESTART, BURST_A_SECOND, MEGABYTES = 30, 5, 3000, 150
LIMIT_SECONDS = 600
POLL_SECONDS = 0.25
AFTER_SECONDS = 3.0  # during which a restart could still add rows
QUIET = "everything seen"


def measure(quick: bool) -> list[Figure]:
    present, burst = (QUICK_PRESENT, QUICK_BURST) if quick else (PRESENT, BURST)
    with ExitStack() as stack:
        own = stack.enter_context(servers())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pneumowatch-bench-")))
        tell(f"writing {present} files")
        write(folder / "inbox", present)
        write(folder / "staged", burst)
        given = rig.process_environment(
            DATABASE_URL=own.database_url, BROKER_URL=own.broker_url, INBOXES=f"{rig.INBOX_NAME}={folder / 'inbox'}"
        )
        database = Database(own.database_url)
        found = at_start(folder, given, database, present)
        found += after_restart(folder, given, database)
        database.close()
    return found


def write(folder: Path, count: int) -> None:
    for number in range(count):
        below = folder / f"{number // A_FOLDER:04d}"
        below.mkdir(parents=True, exist_ok=True)
        (below / f"image-{number:06d}.jpeg").write_bytes(b"%0*d" % (BYTES, number))


def at_start(folder: Path, given: dict[str, str], database: Database, present: int) -> list[Figure]:
    """Measure the real command from the start of its process, then a burst of files renamed into the inbox."""
    started = time.perf_counter()
    with rig.pneumowatch_process("watch", ["watch"], folder, given) as process:
        wait_for_rows(database, present, process)
        seconds = time.perf_counter() - started
        tell(f"{present} files registered in {seconds:.1f} s")
        system = rig.Rig(folder / "inbox", database, {"watch": process.pid})
        system.wait_until_idle()
        before = resource_usage(process.pid)
        rate = burst(folder, database, process)
        tell(f"burst: {rate:.0f} files/s")
        system.wait_until_idle()
        after = resource_usage(process.pid)
    return [
        at_most(f"watcher, {present:,} files present at start: until registered", seconds, "s", SECONDS_PRESENT),
        Figure("... CPU of the watcher", 1000 * before.cpu_seconds / present, "ms per file"),
        at_least("watcher, a burst of files renamed in", rate, "files/s", BURST_A_SECOND),
        at_most("watcher, peak memory", after.peak / 1e6, "MB", MEGABYTES),
    ]


def burst(folder: Path, database: Database, process: rig.Process) -> float:
    """Return files a second, from the first rename until the last row was written."""
    known = rows(database)
    first, *staged = sorted(path for path in (folder / "staged").rglob("*") if path.is_file())
    to = folder / "inbox" / "burst"
    to.mkdir()
    # Until it watches the folder, the watcher lets files settle first; it watches once it has registered one.
    first.rename(to / first.name)
    known += 1
    wait_for_rows(database, known, process)
    started = time.time()
    for path in staged:
        path.rename(to / path.name)
    wait_for_rows(database, known + len(staged), process)
    ended = database.read(lambda connection: connection.scalar(select(func.max(Scan.received_at))))
    return len(staged) / (ended.timestamp() - started)


def after_restart(folder: Path, given: dict[str, str], database: Database) -> list[Figure]:
    known = rows(database)
    command = [sys.executable, str(Path(__file__)), "--watch"]
    started = time.perf_counter()
    with rig.process("restarted", command, folder, given) as process:
        rig.wait_for_log_line(QUIET, "restarted", folder, process)
        seconds = time.perf_counter() - started
        time.sleep(AFTER_SECONDS)  # only time can show that no row is added
    fresh = rows(database) - known
    tell(f"restart: {seconds:.1f} s, {fresh} new rows")
    return [
        at_most(f"watcher, restart over {known:,} files: until all are known", seconds, "s", SECONDS_RESTART),
        at_most("... new rows", fresh, "", 0),
    ]


def wait_for_rows(database: Database, count: int, process: subprocess.Popen[bytes]) -> None:
    def are_there() -> bool:
        assert process.poll() is None, "the watcher has ended"
        return rows(database) >= count

    eventually(are_there, LIMIT_SECONDS, POLL_SECONDS, lambda: f"{rows(database)} of {count} files are registered")


def rows(database: Database) -> int:
    return database.read(lambda connection: connection.scalar(select(func.count()).select_from(Scan))) or 0


def watch() -> None:
    """Run `pneumowatch watch` without the sweep, and log a line when the first rescan is complete."""
    import signal
    import threading

    from watcher.intake import Watcher

    given, stop = settings.load_settings(), threading.Event()
    logs.configure(given.log_format)
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    announcer = Announcer(make_celery_app(given), given)
    watcher = Watcher(given, given.inboxes, Database(given.database, stop), announcer, stop)
    with watcher.running():
        watcher.initial_scan_done.wait(LIMIT_SECONDS)
        logs.get_logger("watcher").info(QUIET)
        stop.wait()


if __name__ == "__main__":
    watch() if "--watch" in sys.argv else run(__doc__, measure)
