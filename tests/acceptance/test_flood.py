"""Thousands of files and two watchers, one of which is killed: each file is registered and announced once."""

from pathlib import Path

import flood
import pytest
from support.services import Server

pytestmark = pytest.mark.slow  # 5,000 files and three starts of the watcher

FILES, LEASE = 5_000, 5.0


def test_a_flood_before_two_watchers(tmp_path: Path, own_redis: Server, postgres_database: str) -> None:
    seen = flood.story(tmp_path, FILES, 2, LEASE, own_redis.url, postgres_database)
    assert flood.faults(seen) == [], seen
    assert seen["looks"] > 10
    assert 0 < seen["most messages"] <= FILES
