"""What `doctor` says of the model of this machine, and of disks with little room."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from standin import tiny_network, write_model

from db import cache, registry, schema
from db.session import Database
from pneumowatch.cli import checkup
from pneumowatch.cli.checkup import Finding, examine
from pneumowatch.model import ModelFolder
from pneumowatch.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path)


@pytest.fixture
def database(settings: Settings, tiny_model: ModelFolder) -> Iterator[Database]:
    with closing(Database(settings.database)) as made:
        schema.upgrade(made)
        cache.add(made, tiny_model, "test")
        yield made


def found(settings: Settings, what: str) -> list[Finding]:
    return [finding for finding in examine(settings) if finding.what == what]


def test_a_store_whose_model_is_not_the_one_that_serves(
    settings: Settings, database: Database, tiny_model: ModelFolder, tmp_path: Path
) -> None:
    assert found(settings, "champion") == []  # no worker was here yet
    cache.fetch(database, settings.models)
    assert [one.verdict for one in found(settings, "champion")] == ["good"]
    other = write_model(tmp_path / "other", tiny_network(48), 48, version="standin-2")
    cache.add(database, other, "test")
    database.write(lambda c: registry.promote(c, "standin-2", "test", "for the test"))
    (finding,) = found(settings, "champion")
    assert finding.verdict == "bad"
    assert "standin-2 serves" in finding.finding
    assert tiny_model.version in finding.finding
    cache.fetch(database, settings.models)
    assert [one.verdict for one in found(settings, "champion")] == ["good"]


def test_a_disk_with_little_room(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(found(settings, "disk")) == 1
    free = shutil.disk_usage(settings.data_dir).free
    monkeypatch.setattr(checkup, "LOW_DISK", free * 2)
    (finding,) = found(settings, "disk")
    assert finding.verdict == "bad"
    assert "make room" in finding.finding
    assert found(settings, "model store's disk") == []  # it is the same one
