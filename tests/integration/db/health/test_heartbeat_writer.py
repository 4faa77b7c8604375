"""Components that live and do nothing: heartbeats report a rescan, an intake and a sweep that hang."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.fake_announcer import FakeAnnouncer
from support.waiting import eventually

from db import schema
from db.health import heartbeats
from db.health.heartbeat_writer import HeartbeatWriter
from db.health.heartbeats import HealthStatus
from db.ledger import sweep
from db.ledger.sweep import Sweeper
from db.session import Database
from pneumowatch.settings import Settings
from watcher import directory, intake, rescanner
from watcher.intake import Watcher

BEAT = 0.05  # seconds
STUCK = 3.0  # longer than a healthy part takes on a busy machine


class Hang:
    """Replaces a call by one that hangs until it is released."""

    def __init__(self, real: Callable[..., Any]) -> None:
        self._real = real
        self.free = threading.Event()
        self.free.set()

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.free.wait(60)
        return self._real(*args, **options)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(Database(f"sqlite:///{tmp_path}/ledger.db")) as database:
        schema.upgrade(database)
        yield database


@pytest.fixture
def writer(database: Database) -> Iterator[HeartbeatWriter]:
    writer = HeartbeatWriter(database, BEAT)
    writer.start()
    yield writer
    writer.close(clean=True)


def until_told(database: Database, verdict: HealthStatus, sentence: str = "") -> None:
    """Wait until the one component's health has this status, and a sentence that begins so."""

    def components() -> Any:
        return database.read(lambda c: heartbeats.readiness(c, 60)).components

    def is_told() -> bool:
        told = components()
        if not told or told[0].state == "starting":
            return False
        return told[0].status is verdict and told[0].sentence.startswith(sentence)

    eventually(is_told, message=lambda: f"{components()}")


@pytest.mark.parametrize(
    ("what", "rescan_seconds"),
    [
        pytest.param("walk", 0.1, id="walk"),
        pytest.param("inspect", 60, id="look"),  # two rescans in a row settle an image without a look
    ],
)
def test_a_watcher_that_hangs_is_stalled_until_it_goes_on(
    tmp_path: Path,
    database: Database,
    writer: HeartbeatWriter,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    rescan_seconds: float,
) -> None:
    inbox = tmp_path / "ward"
    inbox.mkdir()
    hang = Hang(getattr(directory, what))
    monkeypatch.setattr(directory, what, hang)
    monkeypatch.setattr({"walk": rescanner, "inspect": intake}[what], "RESCAN_STALL_SECONDS", STUCK)
    settings = Settings(settle_seconds=0.1, rescan_seconds=rescan_seconds)
    watcher = Watcher(
        settings,
        {"ward": inbox},
        database,
        FakeAnnouncer(),  # type: ignore[arg-type]
        threading.Event(),
        writer.add_component("watcher"),
    )
    with watcher.running():
        until_told(database, HealthStatus.HEALTHY)
        hang.free.clear()
        (inbox / "image.jpeg").write_bytes(b"image")
        activity = {"walk": "the rescan of ward", "inspect": "the intake of ward"}[what]
        until_told(database, HealthStatus.STALLED, f"runs, but {activity}: no progress for")
        hang.free.set()
        until_told(database, HealthStatus.HEALTHY)


def test_a_sweep_that_hangs_is_stalled_until_it_goes_on(
    database: Database, writer: HeartbeatWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "STUCK_SECONDS", STUCK)
    hang, stop, component = Hang(lambda: 1), threading.Event(), writer.add_component("schedule")
    component.set_status("sweeping")
    sweeper = Sweeper(database, lambda ids: None, hang, 0.1, 3, "schedule")
    thread = threading.Thread(target=sweeper.run, args=(stop, 0.05, component))
    thread.start()
    try:
        until_told(database, HealthStatus.HEALTHY)
        hang.free.clear()
        until_told(database, HealthStatus.STALLED, "runs, but the sweep: no progress for")
        hang.free.set()
        until_told(database, HealthStatus.HEALTHY)
    finally:
        hang.free.set()
        stop.set()
        thread.join(60)
    assert not thread.is_alive()
