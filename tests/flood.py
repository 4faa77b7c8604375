"""Flood the watcher with small files: each is registered once, a restart registers none, the broker never overfills.

    python tests/flood.py [--files 100000] [--watchers 1] [--lease 60]

Real `watch` processes, Redis and PostgreSQL; nobody reads the images. The files are there at the start, but for a tenth
that comes by rename while a watcher is killed and started again. Then Redis is flushed: waiting scans must be announced
again, once. Prints what was seen, and ends with 1 where that is not so.
"""

import argparse
import base64
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import redis as redis_client
from support.programs import RunningCommand, environment, run
from support.services import connect, fresh_database, postgres_server, redis_server

A_FOLDER: Final = 1000  # files of one folder
QUEUE: Final = "films"
POLL_SECONDS: Final = 0.1
LIMIT_SECONDS: Final = 900.0


class Counter(threading.Thread):
    """Check repeatedly whether the broker holds more messages than scans wait."""

    def __init__(self, redis: str, postgres: str) -> None:
        super().__init__(name="counter", daemon=True)
        self._redis, self._postgres = redis, postgres
        self._done = threading.Event()
        self.looks, self.most, self.excess = 0, 0, 0

    def run(self) -> None:
        with redis_client.Redis.from_url(self._redis) as broker, connect(self._postgres) as asked:
            while not self._done.wait(POLL_SECONDS):
                held = int(broker.llen(QUEUE))  # type: ignore[arg-type]
                # asked after the messages were counted: meanwhile scans can only have become more
                waiting = asked.execute("SELECT count(*) FROM scans WHERE state = 'queued'").fetchall()[0][0]
                self.looks += 1
                self.most = max(self.most, held)
                self.excess = max(self.excess, held - waiting)

    def stop(self) -> None:
        self._done.set()
        self.join()


def write_tree(folder: Path, first: int, count: int) -> None:
    for number in range(first, first + count):
        below = folder / f"{number // A_FOLDER:04d}"
        if number % A_FOLDER == 0 or number == first:
            below.mkdir(parents=True, exist_ok=True)
        (below / f"image-{number:06d}.jpeg").write_bytes(b"%0*d" % (100, number))


def story(folder: Path, files: int, watchers: int, lease: float, redis: str, postgres: str) -> dict[str, Any]:
    """Run it and return what was seen. `folder` is empty; `postgres` names a database without tables."""
    inbox, staged, late = folder / "inbox", folder / "staged", files // 10
    write_tree(inbox, 0, files - late)
    write_tree(staged, files - late, late)
    env = environment(
        inboxes=f"ward={inbox}",
        settle_seconds=0.5,
        lease_seconds=lease,
        data_dir=folder / "data",
        database_url=postgres,
        broker_url=redis,
    )
    upgraded = run("db", "upgrade", cwd=folder, env=env)
    assert upgraded.code == 0, upgraded.err
    seen: dict[str, Any] = {"files": files}
    with ExitStack() as stack:
        asked = stack.enter_context(connect(postgres))
        broker = stack.enter_context(redis_client.Redis.from_url(redis))

        def ask(statement: str) -> int:
            return int(asked.execute(statement).fetchall()[0][0])

        def registered() -> int:
            return ask("SELECT count(*) FROM scans")

        def announced() -> int:
            """Return how many images the messages at the broker announce."""
            messages: list[bytes] = broker.lrange(QUEUE, 0, -1)  # type: ignore[assignment]
            return sum(len(json.loads(_body(message))[0][0]) for message in messages)

        with counting(redis, postgres) as counter:
            with watching(folder, env, watchers) as parts:
                started = time.monotonic()
                wait(parts, lambda: registered() >= files - late)
                seen["seconds until registered"] = round(time.monotonic() - started, 1)
                os.kill(parts[0].process.pid, signal.SIGKILL)
                bring(staged, inbox)
                parts[0].process.wait()
            with watching(folder, env, watchers) as parts:
                wait(parts, lambda: registered() >= files)
                wait(parts, lambda: ask("SELECT count(*) FROM inboxes WHERE rescanned_at IS NOT NULL") > 0)
            before = ask("SELECT count(*) FROM scan_events")
            with watching(folder, env, watchers) as parts:
                since = asked.execute("SELECT now()").fetchall()[0][0].isoformat()
                wait(parts, lambda: ask(f"SELECT count(*) FROM inboxes WHERE rescanned_at > '{since}'") > 0)
                seen["new rows after a restart"] = registered() - files
                seen["new events after a restart"] = ask("SELECT count(*) FROM scan_events") - before
                # what was announced less than a lease ago is not taken for forgotten, and then waits for its turn
                wait(
                    parts,
                    lambda: ask(f"SELECT count(*) FROM scans WHERE announced_at > now() - interval '{lease} s'") == 0,
                )
                broker.flushall()
                flushed = time.monotonic()
                wait(parts, lambda: announced() >= files)
                seen["seconds until announced again"] = round(time.monotonic() - flushed, 1)
                time.sleep(min(lease, 5.0))  # that nothing is announced once more shows in time alone
                seen["announced after the flush"] = announced()
        seen |= {
            "rows": registered(),
            "paths": ask("SELECT count(DISTINCT path) FROM scans"),
            "queued": ask("SELECT count(*) FROM scans WHERE state = 'queued'"),
            "most messages": counter.most,
            "messages beyond waiting scans": counter.excess,
            "looks": counter.looks,
        }
    return seen


def _body(message: bytes) -> bytes:
    return base64.b64decode(json.loads(message)["body"])


@contextmanager
def counting(redis: str, postgres: str) -> Iterator[Counter]:
    counter = Counter(redis, postgres)
    counter.start()
    try:
        yield counter
    finally:
        counter.stop()


@contextmanager
def watching(folder: Path, env: dict[str, str], count: int) -> Iterator[list[RunningCommand]]:
    with ExitStack() as stack:
        parts = [
            stack.enter_context(RunningCommand(("watch",), folder, folder / f"watch-{number}.log", env))
            for number in range(count)
        ]
        yield parts
        for part in parts:
            if part.process.poll() is None:
                assert part.terminate() == 0, part.said()


def wait(parts: list[RunningCommand], is_so: Any) -> None:
    parts[-1].wait_until(is_so, LIMIT_SECONDS)


def bring(staged: Path, inbox: Path) -> None:
    for path in sorted(path for path in staged.rglob("*") if path.is_file()):
        below = inbox / "late" / path.parent.name
        below.mkdir(parents=True, exist_ok=True)
        path.rename(below / path.name)
    shutil.rmtree(staged)


def faults(seen: dict[str, Any]) -> list[str]:
    """Return what is not as it should be."""
    files = seen["files"]
    wrong = {
        "a file is not registered once": not seen["rows"] == seen["paths"] == seen["queued"] == files,
        "a restart registered a file anew": seen["new rows after a restart"] > 0,
        "a restart changed a row": seen["new events after a restart"] > 0,
        "the broker held more messages than scans wait": seen["messages beyond waiting scans"] > 0,
        "what waits was not announced once after the flush": seen["announced after the flush"] != files,
    }
    return [fault for fault, is_so in wrong.items() if is_so]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--watchers", type=int, default=1)
    parser.add_argument("--lease", type=float, default=60.0)
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pneumowatch-flood-")))
        redis = stack.enter_context(redis_server()).url
        postgres = stack.enter_context(fresh_database(stack.enter_context(postgres_server()).url))
        seen = story(folder, given.files, given.watchers, given.lease, redis, postgres)
    print(json.dumps({**seen, "faults": faults(seen)}, indent=1))
    return 1 if faults(seen) else 0


if __name__ == "__main__":
    sys.exit(main())
