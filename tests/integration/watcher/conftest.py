"""Fixtures for watcher tests: watchers notice at once what they otherwise notice within half a second, to save time."""

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.watcher_harness import WatcherHarness

from db import schema
from db.session import Database


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("watcher.intake.EVENT_WAIT_SECONDS", 0.05)


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[WatcherHarness]:
    with closing(Database(f"sqlite:///{tmp_path / 'ledger.db'}", threading.Event())) as database:
        schema.upgrade(database)
        harness = WatcherHarness(tmp_path, database)
        harness.ledger.register_model()
        yield harness
