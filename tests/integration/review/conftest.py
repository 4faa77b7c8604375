"""The review app on a real SQLite and on a real PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.review_server import ReviewServer

from db.session import Database
from pneumowatch.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", inboxes={"inbox": tmp_path / "inbox"})


@pytest.fixture
def review_server(database: Database, settings: Settings) -> Iterator[ReviewServer]:
    with ReviewServer(database, settings) as review_server:
        yield review_server
