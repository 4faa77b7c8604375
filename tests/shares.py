"""Take a share away while images wait on it, and bring it back: with real processes, Redis, PostgreSQL and model.

    python tests/shares.py [--images 500] [--seconds 60] [--ways renamed,covered | unmounted]

`renamed`: the tree is gone; `covered`: an empty folder takes its place; `unmounted`: a mount is taken away, with
nothing beneath (as root: unshare --mount --propagation private python tests/shares.py --ways unmounted).
A watcher polls the share, a worker reads from it; once the first images are read, it goes away. So for each of the
ways, with as many images each. Prints the results, and ends with 1 where an image has no result, has vanished, was
registered twice or counts an attempt.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from support.programs import RunningCommand, environment, run
from support.services import connect, fresh_database, postgres_server, redis_server

from pneumowatch.imaging.phantom import write_phantoms

DRAWN: Final = 12  # images; the others are these with bytes of their own
POLL_SECONDS: Final = 0.5
START_SECONDS: Final = 180.0
REGISTERED: Final = "SELECT count(*) FROM scans"
FINISHED: Final = "SELECT count(*) FROM scans WHERE finished_at IS NOT NULL"
INBOX_STATE: Final = "SELECT state FROM inboxes WHERE inbox = 'ward'"
ANSWERS: Final = {
    "states": "SELECT state || coalesce(' ' || reason, ''), count(*) FROM scans GROUP BY 1 ORDER BY 1",
    "paths": "SELECT count(DISTINCT path) FROM scans",
    "predictions": "SELECT count(*) FROM predictions",
    "deaths": "SELECT coalesce(sum(lost_leases), 0) FROM scans",
    "vanished": "SELECT count(*) FROM scan_events WHERE detail = 'vanished'",
    "put_off": "SELECT count(DISTINCT scan_id) FROM scan_events WHERE detail = 'the share is away'",
    "events_an_image": "SELECT max(n) FROM (SELECT count(*) AS n FROM scan_events GROUP BY scan_id) AS each",
}


class Share:
    """The inbox, and ways to take it away and bring it back."""

    def __init__(self, folder: Path, mounted: bool) -> None:
        self.inbox, self._elsewhere = folder / "ward", folder / "kept"
        self.inbox.mkdir()
        if mounted:
            self._elsewhere.mkdir()
            _mount("-t", "tmpfs", "-o", "size=2g", "tmpfs", self._elsewhere)
            _mount("--bind", self._elsewhere, self.inbox)

    def remove(self, way: str) -> None:
        if way == "unmounted":
            # as lazily as a share that drops: who has a file of it open keeps it
            subprocess.run(["umount", "--lazy", self.inbox], check=True)
            return
        self.inbox.rename(self._elsewhere)
        if way == "covered":
            self.inbox.mkdir()

    def restore(self, way: str) -> None:
        if way == "unmounted":
            _mount("--bind", self._elsewhere, self.inbox)
            return
        if way == "covered":
            self.inbox.rmdir()
        self._elsewhere.rename(self.inbox)


def _mount(*words: object) -> None:
    subprocess.run(["mount", *map(str, words)], check=True)


def write_images(folder: Path, drawn: Path, count: int) -> None:
    """Write distinct files: each has its own bytes after the pixels."""
    images = sorted(drawn.iterdir())
    there = sum(1 for _ in folder.iterdir())
    for number in range(there, there + count):
        path = folder / f"{number:05}.jpeg"
        shutil.copyfile(images[number % len(images)], path)
        with path.open("ab") as file:
            file.write(number.to_bytes(4, "big"))


def story(folder: Path, images: int, seconds: float, ways: Sequence[str], redis: str, postgres: str) -> dict[str, Any]:
    """Run it and return the results. `folder` is empty; `postgres` names a database without tables."""
    drawn = folder / "drawn"
    drawn.mkdir()
    write_phantoms(drawn, min(images, DRAWN))
    share = Share(folder, "unmounted" in ways)
    env = environment(
        inboxes=f"ward={share.inbox}",
        watch_modes="ward=poll",
        poll_seconds=POLL_SECONDS,
        settle_seconds=0.5,
        data_dir=folder / "data",
        database_url=postgres,
        broker_url=redis,
        decoders=1,
        batch_size=4,  # so that most images wait when it goes
        lease_seconds=20,
    )
    upgraded = run("db", "upgrade", cwd=folder, env=env)
    assert upgraded.code == 0, upgraded.err
    answers: dict[str, Any] = {"images": images * len(ways)}
    with ExitStack() as stack:
        asked = stack.enter_context(connect(postgres))

        def ask(statement: str) -> Any:
            return asked.execute(statement).fetchall()[0][0]

        def until(is_so: Callable[[], bool]) -> None:
            watcher.wait_until(is_so, START_SECONDS)

        watcher = stack.enter_context(RunningCommand(("watch",), folder, folder / "watch.log", env))
        worker = stack.enter_context(RunningCommand(("work",), folder, folder / "work.log", env))
        worker.wait_until(lambda: "model ready" in worker.said(), START_SECONDS)
        for number, way in enumerate(ways):
            before = images * number
            write_images(share.inbox, drawn, images)
            until(lambda: ask(REGISTERED) == before + images and ask(FINISHED) > before)  # noqa: B023 - at once
            share.remove(way)
            until(lambda: ask(INBOX_STATE) == "unavailable")
            time.sleep(seconds)  # an outage is the time that it lasts
            answers[f"waited, {way}"] = before + images - ask(FINISHED)
            share.restore(way)
            returned = time.monotonic()
            until(lambda: ask(FINISHED) == before + images)  # noqa: B023 - at once
            answers[f"seconds to recover, {way}"] = round(time.monotonic() - returned, 1)
        answers |= {name: _plain(asked.execute(statement).fetchall()) for name, statement in ANSWERS.items()}
        answers["codes"] = [part.terminate() for part in (watcher, worker)]
        answers["said"] = watcher.said() + worker.said()
    return answers


def _plain(rows: list[tuple[Any, ...]]) -> Any:
    return int(rows[0][0]) if len(rows[0]) == 1 else {name: int(count) for name, count in rows}


def faults(answers: dict[str, Any]) -> list[str]:
    """Return what is not as it should be."""
    images = answers["images"]
    wrong = {
        "an image has no result, or two": answers["predictions"] != images,
        "an image is there twice": not answers["paths"] == sum(answers["states"].values()) == images,
        "an image has vanished": answers["vanished"] > 0,
        "an attempt is counted": answers["deaths"] > 0,
        "nothing waited for the share": answers["put_off"] == 0,
        "a part did not end well": answers["codes"] != [0, 0],
    }
    return [fault for fault, is_so in wrong.items() if is_so]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--ways", default="renamed,covered")
    parser.add_argument("--redis", help="one that runs (default: its own)")
    parser.add_argument("--postgres", help="an empty database of one that runs (default: its own)")
    given = parser.parse_args()
    ways = given.ways.split(",")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pneumowatch-shares-")))
        redis = given.redis or stack.enter_context(redis_server()).url
        postgres = given.postgres or stack.enter_context(fresh_database(stack.enter_context(postgres_server()).url))
        answers = story(folder, given.images, given.seconds, ways, redis, postgres)
        if "unmounted" in ways:
            subprocess.run(["umount", "--lazy", folder / "ward", folder / "kept"], check=True)
    print(json.dumps({**answers, "faults": faults(answers)}, indent=1))
    return 1 if faults(answers) else 0


if __name__ == "__main__":
    sys.exit(main())
