"""What `doctor` says of the model of this machine, of disks with little room, and of ways out."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from books import Book, classified, seen
from sqlalchemy import update
from standin import tiny_network, write_model

from db import cache, ledger, registry, schema
from db.models import Outbox
from db.session import Database
from pneumowatch.cli import checkup
from pneumowatch.cli.checkup import CheckResult, run_checks
from pneumowatch.model import ModelFolder
from pneumowatch.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path)


@pytest.fixture
def database(settings: Settings, tiny_model: ModelFolder) -> Iterator[Database]:
    with closing(Database(settings.database)) as made:
        schema.upgrade(made)
        cache.register_folder(made, tiny_model, "test")
        yield made


def found(settings: Settings, what: str) -> list[CheckResult]:
    return [finding for finding in run_checks(settings) if finding.check == what]


def test_a_store_whose_model_is_not_the_one_that_serves(
    settings: Settings, database: Database, tiny_model: ModelFolder, tmp_path: Path
) -> None:
    assert found(settings, "champion") == []  # no worker was here yet
    cache.fetch_model(database, settings.models)
    assert [one.status for one in found(settings, "champion")] == ["good"]
    other = write_model(tmp_path / "other", tiny_network(48), 48, version="standin-2")
    cache.register_folder(database, other, "test")
    database.write(lambda c: registry.promote_to_champion(c, "standin-2", "test", "for the test"))
    (finding,) = found(settings, "champion")
    assert finding.status == "bad"
    assert "standin-2 serves" in finding.message
    assert tiny_model.version in finding.message
    cache.fetch_model(database, settings.models)
    assert [one.status for one in found(settings, "champion")] == ["good"]


def test_a_disk_with_little_room(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(found(settings, "disk")) == 1
    free = shutil.disk_usage(settings.data_dir).free
    monkeypatch.setattr(checkup, "LOW_DISK_BYTES", free * 2)
    (finding,) = found(settings, "disk")
    assert finding.status == "bad"
    assert "make room" in finding.message
    assert found(settings, "model store's disk") == []  # it is the same one


def test_ways_out_that_do_not_get_through(settings: Settings, database: Database) -> None:
    assert found(settings, "webhook") == []
    told = settings.model_copy(
        update={"webhook_url": "https://there.example/hook", "webhook_secret": "a secret of ours"}
    )
    assert [one.status for one in found(told, "webhook")] == ["good"]
    book = Book(database)
    book.register_model()
    ids = book.add(*(seen(f"{number}.png") for number in range(2)))
    claim = book.claimed()
    outcomes = [classified(id_) for id_ in ids]
    database.write(lambda c: ledger.record_outcomes(c, claim.token, outcomes, "worker", ("webhook",)))
    (finding,) = found(told, "webhook")
    assert (finding.status, finding.message) == ("good", "2 messages wait")
    (finding,) = found(settings, "webhook")
    assert (finding.status, finding.message) == ("bad", "2 messages wait, but where to is not set here")
    earlier = datetime.now(UTC) - timedelta(hours=3)
    database.write(lambda c: c.execute(update(Outbox).values(since=earlier)))
    (finding,) = found(told, "webhook")
    assert finding.status == "bad"
    assert "the oldest for 3 h" in finding.message
    database.write(lambda c: c.execute(update(Outbox).values(state="given_up")))
    (finding,) = found(told, "webhook")
    assert finding.status == "bad"
    assert "2 messages were given up" in finding.message


def test_a_way_out_that_cannot_work_as_it_is_set(settings: Settings) -> None:
    wrong = settings.model_copy(update={"webhook_url": "ftp://there.example/hook"})
    (finding,) = found(wrong, "ways out")
    assert finding.status == "bad"
    assert "PNEUMOWATCH_WEBHOOK_URL" in finding.message
