"""Watchers that notice at once what they else notice within half a second: most of these tests' time was that."""

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from house import House

from db import schema
from db.session import Database


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("watcher.intake.EVENT_WAIT_SECONDS", 0.05)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with closing(Database(f"sqlite:///{tmp_path / 'ledger.db'}", threading.Event())) as database:
        schema.upgrade(database)
        house = House(tmp_path, database)
        house.book.register_model()
        yield house
