"""The desk on a real SQLite and on a real PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from desk import Desk

from db.session import Database
from pneumowatch.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", inboxes={"inbox": tmp_path / "inbox"})


@pytest.fixture
def desk(database: Database, settings: Settings) -> Iterator[Desk]:
    with Desk(database, settings) as desk:
        yield desk
