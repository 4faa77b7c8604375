"""The deployed way: a watcher and two workers, each a process of its own, on a real Redis and a real PostgreSQL.

What fails there is in test_faults.py.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.programs import Drop, RunningCommand, environment, run
from support.services import Server, connect

from pneumowatch.model_folder import shipped_folder
from pneumowatch.queue import Announcer, make_celery_app
from pneumowatch.settings import Settings


@dataclass
class Deployment:
    folder: Path
    database: str
    broker: str
    env: dict[str, str]
    watcher: RunningCommand
    workers: list[RunningCommand]

    @property
    def inbox(self) -> Path:
        return self.folder / "images"

    @property
    def parts(self) -> list[RunningCommand]:
        return [self.watcher, *self.workers]

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        with connect(self.database) as connection:
            return connection.execute(statement).fetchall()

    def finished(self) -> int:
        return self.ask("SELECT count(*) FROM scan_ledger WHERE finished_at IS NOT NULL")[0][0]

    def wait_for(self, count: int, timeout: float = 60) -> None:
        self.watcher.wait_until(lambda: self.finished() >= count, timeout)


@pytest.fixture
def deployment(tmp_path: Path, own_redis: Server, postgres_database: str) -> Iterator[Deployment]:
    inbox = tmp_path / "images"
    inbox.mkdir()
    env = environment(
        inboxes=f"ward={inbox}",
        data_dir=tmp_path / "data",
        database_url=postgres_database,
        broker_url=own_redis.url,
        settle_seconds=0.5,
        batch_size=2,  # so that one worker cannot take all
        decoders=1,
        lease_seconds=10,
    )
    upgraded = run("db", "upgrade", cwd=tmp_path, env=env)
    assert upgraded.code == 0, upgraded.err
    with ExitStack() as stack:
        watcher, *workers = (
            stack.enter_context(RunningCommand((command,), tmp_path, tmp_path / f"{number}-{command}.log", env))
            for number, command in enumerate(("watch", "work", "work"))
        )
        for worker in workers:
            worker.wait_until_said("model ready")
        yield Deployment(tmp_path, postgres_database, own_redis.url, env, watcher, workers)


def test_a_day_of_a_department(deployment: Deployment, sample: list[Path], drop: Drop) -> None:
    """One story, as starting all this takes longer than what happens in it."""
    all_images_however_they_come(deployment, drop)
    the_commands_see_it(deployment)
    nothing_that_was_said_names_an_image(deployment, sample)
    all_end_when_asked_to(deployment)


def all_images_however_they_come(deployment: Deployment, drop: Drop) -> None:
    inbox, outside = deployment.inbox, deployment.folder / "outside"
    drop(inbox / "copied", 14)
    for number, image in enumerate(drop(outside, 28)[14:]):
        (inbox / f"renamed-{number}").touch() if number == 0 else None  # a name that is taken over
        image.rename(inbox / f"renamed-{number}")
    for number, image in enumerate(drop(outside, 40)[28:]):
        write_and_reopen(image.read_bytes(), inbox / f"reopened-{number}")
    deployment.wait_for(40)
    # were anything to be read twice, a message of it would be left: all have been taken, and acknowledged
    given = Settings(broker_url=deployment.broker)
    with make_celery_app(given) as app:
        deployment.watcher.wait_until(lambda: Announcer(app, given).outstanding() == 0)
    found = deployment.ask("SELECT state, count(*) FROM scan_ledger WHERE superseded_by IS NULL GROUP BY state")
    assert found == [("classified", 40)]
    assert deployment.ask("SELECT DISTINCT source, model_version FROM scan_ledger WHERE state = 'classified'") == [
        ("ward", shipped_folder().version)
    ]
    twice = "SELECT scan_id FROM scan_events WHERE to_state = 'classified' GROUP BY scan_id HAVING count(*) > 1"
    assert deployment.ask(twice) == []
    assert deployment.ask("SELECT count(*) FROM predictions")[0][0] == 40
    readers = deployment.ask("SELECT DISTINCT by FROM scan_events WHERE to_state = 'classified'")
    assert {by.rpartition(":")[2] for (by,) in readers} == {str(worker.process.pid) for worker in deployment.workers}


def write_and_reopen(data: bytes, path: Path) -> None:
    """Write the first half, close the file, and append the rest a moment later, as scanners do."""
    path.write_bytes(data[: len(data) // 2])
    time.sleep(0.05)  # a scanner's own pace
    with path.open("ab") as file:
        file.write(data[len(data) // 2 :])


def the_commands_see_it(deployment: Deployment) -> None:
    for arguments in (("db", "check"), ("doctor",), ("reconcile",)):
        ended = run(*arguments, cwd=deployment.folder, env=deployment.env)
        assert ended.code == 0, ended.out + ended.err
    status = run("status", "--json", cwd=deployment.folder, env=deployment.env).json
    assert status["counts"]["classified"] == 40
    assert status["unscored"] == 0


def nothing_that_was_said_names_an_image(deployment: Deployment, sample: list[Path]) -> None:
    names = {image.stem for image in sample} | {"renamed-", "reopened-"}
    for log in deployment.folder.glob("*.log"):
        said = log.read_text("utf-8")
        assert not [name for name in names if name in said], said


def all_end_when_asked_to(deployment: Deployment) -> None:
    for part in deployment.parts:
        part.process.terminate()
    for part in deployment.parts:
        assert part.process.wait(60) == 0, part.said()
