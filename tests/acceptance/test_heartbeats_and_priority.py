"""Urgent images first, the cap on waiting, and component health: with real processes, Redis and PostgreSQL."""

import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from celery import Celery
from redis import Redis
from support.programs import Drop, RunningCommand, environment, run
from support.services import Server, connect

BATCH: Final = 8
CAP: Final = 8.0  # seconds
THREADS: Final = 4  # of a worker, each with a claim in hand
# what was claimed between the row of an urgent image and its own claim
OVERTOOK: Final = """
SELECT count(*) FROM scan_events e, scan_events arrived, scan_events claimed, scan_ledger s
WHERE s.path LIKE {path} AND arrived.scan_id = s.scan_id AND arrived.to_state = 'queued'
AND claimed.scan_id = s.scan_id AND claimed.to_state = 'running' AND e.to_state = 'running'
AND e.at > arrived.at AND e.at < claimed.at
"""

Ask = Callable[[str], list[tuple[Any, ...]]]


@dataclass
class Deployment:
    folder: Path
    redis: Server
    database: str
    env: dict[str, str]
    watcher: RunningCommand
    worker: RunningCommand

    @property
    def inbox(self) -> Path:
        return self.folder / "images"

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        with connect(self.database) as connection:
            return connection.execute(statement.replace("%", "%%")).fetchall()

    def command(self, *words: str) -> Any:
        return run(*words, "--json", cwd=self.folder, env=self.env)

    def finished(self, path: str = "%") -> int:
        return self.ask(f"SELECT count(*) FROM scan_ledger WHERE finished_at IS NOT NULL AND path LIKE '{path}'")[0][0]

    def verdicts(self) -> dict[str, str]:
        return {part["kind"]: part["status"] for part in self.command("status").json["components"]}

    def start(self, *words: str) -> RunningCommand:
        return RunningCommand(
            words, self.folder, self.folder / f"{'-'.join(words)}-{time.monotonic_ns()}.log", self.env
        )


@pytest.fixture
def deployment(tmp_path: Path, own_redis: Server, postgres_database: str) -> Iterator[Deployment]:
    inbox = tmp_path / "images"
    (inbox / "stat").mkdir(parents=True)
    env = environment(
        inboxes=f"ward={inbox}",
        data_dir=tmp_path / "data",
        database_url=postgres_database,
        broker_url=own_redis.url,
        settle_seconds=0.5,
        batch_size=BATCH,
        decoders=1,
        lease_seconds=20,
        waiting_cap_minutes=CAP / 60,
    )
    upgraded = run("db", "upgrade", cwd=tmp_path, env=env)
    assert upgraded.code == 0, upgraded.err
    with ExitStack() as stack:
        watcher, worker = (
            stack.enter_context(RunningCommand((command,), tmp_path, tmp_path / f"{command}.log", env))
            for command in ("watch", "work")
        )
        worker.wait_until_said("model ready")
        yield Deployment(tmp_path, own_redis, postgres_database, env, watcher, worker)


@pytest.mark.slow
def test_a_department_with_urgent_images_and_components_that_fail(deployment: Deployment, drop: Drop) -> None:
    """One story, as starting all this takes longer than what happens in it."""
    an_urgent_image_overtakes_what_waits(deployment, drop)
    a_routine_image_waits_no_longer_than_the_cap(deployment, drop)
    every_component_is_healthy(deployment)
    a_worker_cut_off_from_its_queue_reconnects(deployment, drop)
    a_worker_that_is_gone_is_told_until_another_takes_its_place(deployment, drop)
    a_clean_end_leaves_nothing(deployment)


def an_urgent_image_overtakes_what_waits(deployment: Deployment, drop: Drop) -> None:
    outside = deployment.folder / "outside"
    urgent = drop(deployment.folder / "urgent", 1)[0]
    drop(outside, 300)
    outside.rename(deployment.inbox / "routine")
    deployment.watcher.wait_until(lambda: deployment.finished("routine/%") > 0)
    urgent.rename(deployment.inbox / "stat" / "first.jpeg")
    deployment.watcher.wait_until(lambda: deployment.finished("stat/%") == 1)
    assert deployment.ask("SELECT priority FROM scan_ledger WHERE path LIKE 'stat/%'") == [(1,)]
    deployment.watcher.wait_until(lambda: deployment.finished("routine/%") == 300)
    assert deployment.ask(OVERTOOK.format(path="'stat/first%'"))[0][0] <= THREADS * BATCH


def a_routine_image_waits_no_longer_than_the_cap(deployment: Deployment, drop: Drop) -> None:
    """Urgent images come as fast as they are read, all the while."""
    images = drop(deployment.folder / "flow", 8000)
    enough, waited = threading.Event(), []

    def waiting() -> int:
        return deployment.ask("SELECT count(*) FROM scans WHERE priority = 1 AND state = 'queued'")[0][0]

    def flow() -> None:
        all_of_them = len(images)
        while images and not enough.is_set():
            # more than is read before a busy machine has registered the next; what it is yet to register counts, too
            if all_of_them - len(images) - deployment.finished("stat/%") < 1500:
                for image in [images.pop() for _ in range(min(300, len(images)))]:
                    image.rename(deployment.inbox / "stat" / image.name)
            else:
                enough.wait(0.05)

    feeder = threading.Thread(target=flow)
    feeder.start()
    try:
        deployment.watcher.wait_until(lambda: waiting() > 800)
        routine = drop(deployment.folder / "one", 601)[-1]
        routine.rename(deployment.inbox / "routine" / "one.jpeg")
        deployment.watcher.wait_until(lambda: waited.append(waiting()) or deployment.finished("routine/one%"))
    finally:
        enough.set()
        feeder.join()
    assert images, "the flow ran out before the routine image was read"
    ((seconds,),) = deployment.ask(
        "SELECT extract(epoch FROM finished_at - received_at) FROM scan_ledger WHERE path = 'routine/one.jpeg'"
    )
    assert 0.7 * CAP < seconds < CAP + 30  # the urgent ones went first; and then it did
    deployment.watcher.wait_until(lambda: waiting() == 0)


def every_component_is_healthy(deployment: Deployment) -> None:
    status = deployment.command("status").json
    assert deployment.verdicts() == {"watcher": "healthy", "worker": "healthy"}
    assert status["ready"] is True
    (worker,) = (part for part in status["components"] if part["kind"] == "worker")
    assert worker["done"]["classified"] > 300
    assert [source["status"] for source in status["silence"]] == ["unknown"]
    assert status["unscored"] == 0
    doctor = run("doctor", cwd=deployment.folder, env=deployment.env)
    assert doctor.code == 0, doctor.out


def a_worker_cut_off_from_its_queue_reconnects(deployment: Deployment, drop: Drop) -> None:
    """Its consumer is cancelled remotely: it stays connected and receives nothing."""
    image, other = drop(deployment.folder / "late", 603)[-2:]
    with closing(Celery(broker=deployment.redis.url, set_as_current=False)) as app:
        app.control.cancel_consumer("films", reply=True, timeout=10)
    image.rename(deployment.inbox / "late-1.jpeg")
    with Redis.from_url(deployment.redis.url) as client:
        deployment.worker.wait_until(lambda: client.llen("films") == 1)
        deployment.worker.wait_until_said("none is received; reconnecting")
        deployment.worker.wait_until(lambda: deployment.finished("late-1%") == 1)
        client.client_kill_filter(_type="normal", skipme=True)
        other.rename(deployment.inbox / "late-2.jpeg")
        deployment.worker.wait_until(lambda: deployment.finished("late-2%") == 1)


def a_worker_that_is_gone_is_told_until_another_takes_its_place(deployment: Deployment, drop: Drop) -> None:
    deployment.worker.kill()
    # the dead tell nothing; what is told of them is as old as the test wants it
    deployment.ask(
        "UPDATE heartbeats SET beat_at = beat_at - interval '2 minutes' WHERE kind = 'worker' RETURNING component"
    )
    assert deployment.verdicts() == {"watcher": "healthy", "worker": "silent"}
    doctor = deployment.command("doctor")
    assert doctor.code == 1
    (bad,) = (finding for finding in doctor.json if finding["status"] == "error")
    assert bad["message"].startswith("no heartbeat for")
    with deployment.start("work") as worker:
        worker.wait_until(lambda: deployment.verdicts() == {"watcher": "healthy", "worker": "healthy"})
        assert deployment.command("doctor").code == 0
        drop(deployment.folder / "last", 604)[-1].rename(deployment.inbox / "last.jpeg")
        worker.wait_until(lambda: deployment.finished("last%") == 1)
        assert worker.terminate() == 0


def a_clean_end_leaves_nothing(deployment: Deployment) -> None:
    assert deployment.watcher.terminate() == 0
    with deployment.start("schedule") as schedule:
        schedule.wait_until(lambda: "schedule" in deployment.verdicts())
        assert schedule.terminate() == 0
    assert [kind for (kind,) in deployment.ask("SELECT kind FROM heartbeats")] == ["worker"]  # the one that was killed


@pytest.mark.slow
def test_an_urgent_image_overtakes_what_waits_in_up(tmp_path: Path, drop: Drop, sample: list[Path]) -> None:
    def ask(statement: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(f"file:{tmp_path}/data/pneumowatch.db?mode=ro", uri=True)) as connection:
            return connection.execute(statement).fetchall()

    def finished(path: str) -> int:
        return ask(f"SELECT count(*) FROM scan_ledger WHERE finished_at IS NOT NULL AND path LIKE '{path}'")[0][0]

    (tmp_path / "inbox" / "urgent" / "er").mkdir(parents=True)
    drop(tmp_path / "outside", 200)
    env = environment(settle_seconds=0.5, batch_size=BATCH, decoders=1, priority_folders="stat,ER")
    with RunningCommand(("up",), tmp_path, tmp_path / "log", env) as up:
        up.wait_until_said("model ready")
        (tmp_path / "outside").rename(tmp_path / "inbox" / "routine")
        up.wait_until(lambda: finished("routine/%") > 0)
        shutil.copy(sample[-1], tmp_path / "inbox" / "urgent" / "er" / "first.jpeg")
        up.wait_until(lambda: finished("urgent/%") == 1)
        up.wait_until(lambda: finished("routine/%") == 200)
        assert ask(OVERTOOK.format(path="'urgent/%'"))[0][0] <= THREADS * BATCH
        status = run("status", "--json", cwd=tmp_path, env=env).json
        assert {part["kind"]: part["status"] for part in status["components"]} == dict.fromkeys(
            ("schedule", "watcher", "worker"), "healthy"
        )
        up.process.send_signal(signal.SIGTERM)
        assert up.process.wait(60) == 0, up.said()
    assert ask("SELECT * FROM heartbeats") == []
