"""What `doctor` reports on this machine's model, on disks with little space, and on outgoing connections."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import update
from support.ledger_driver import LedgerDriver, classified, file_version
from support.tiny_models import tiny_network, write_model

from cli.maintenance import health_checks
from cli.maintenance.health_checks import CheckResult, run_checks
from db import schema
from db.ledger import transitions
from db.models import Outbox
from db.registry import model_cache, model_registry
from db.session import Database
from pneumowatch.model_folder import ModelFolder
from pneumowatch.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path)


@pytest.fixture
def database(settings: Settings, tiny_model: ModelFolder) -> Iterator[Database]:
    with closing(Database(settings.database)) as made:
        schema.upgrade(made)
        model_cache.register_folder(made, tiny_model, "test")
        yield made


def found(settings: Settings, what: str) -> list[CheckResult]:
    return [result for result in run_checks(settings) if result.check == what]


def test_a_store_whose_model_is_not_the_one_that_serves(
    settings: Settings, database: Database, tiny_model: ModelFolder, tmp_path: Path
) -> None:
    assert found(settings, "champion") == []  # no worker was here yet
    model_cache.fetch_model(database, settings.models)
    assert [one.status for one in found(settings, "champion")] == ["ok"]
    other = write_model(tmp_path / "other", tiny_network(48), 48, version="standin-2")
    model_cache.register_folder(database, other, "test")
    database.write(lambda c: model_registry.promote_to_champion(c, "standin-2", "test", "for the test"))
    (result,) = found(settings, "champion")
    assert result.status == "error"
    assert "standin-2 serves" in result.message
    assert tiny_model.version in result.message
    model_cache.fetch_model(database, settings.models)
    assert [one.status for one in found(settings, "champion")] == ["ok"]


def test_a_disk_with_little_room(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(found(settings, "disk")) == 1
    free = shutil.disk_usage(settings.data_dir).free
    monkeypatch.setattr(health_checks, "LOW_DISK_BYTES", free * 2)
    (result,) = found(settings, "disk")
    assert result.status == "error"
    assert "free some space" in result.message
    assert found(settings, "model store's disk") == []  # it is the same one


def test_ways_out_that_do_not_get_through(settings: Settings, database: Database) -> None:
    assert found(settings, "webhook") == []
    told = settings.model_copy(
        update={"webhook_url": "https://there.example/hook", "webhook_secret": "a secret of ours"}
    )
    assert [one.status for one in found(told, "webhook")] == ["ok"]
    ledger = LedgerDriver(database)
    ledger.register_model()
    ids = ledger.add(*(file_version(f"{number}.png") for number in range(2)))
    claim = ledger.claimed()
    outcomes = [classified(id_) for id_ in ids]
    database.write(lambda c: transitions.record_outcomes(c, claim.token, outcomes, "worker", ("webhook",)))
    (result,) = found(told, "webhook")
    assert (result.status, result.message) == ("ok", "2 notifications wait")
    (result,) = found(settings, "webhook")
    assert (result.status, result.message) == ("error", "2 notifications wait, but this channel is not configured here")
    earlier = datetime.now(UTC) - timedelta(hours=3)
    database.write(lambda c: c.execute(update(Outbox).values(since=earlier)))
    (result,) = found(told, "webhook")
    assert result.status == "error"
    assert "the oldest for 3 h" in result.message
    database.write(lambda c: c.execute(update(Outbox).values(state="given_up")))
    (result,) = found(told, "webhook")
    assert result.status == "error"
    assert "2 notifications were given up" in result.message


def test_a_way_out_that_cannot_work_as_it_is_set(settings: Settings) -> None:
    wrong = settings.model_copy(update={"webhook_url": "ftp://there.example/hook"})
    (result,) = found(wrong, "notification channels")
    assert result.status == "error"
    assert "PNEUMOWATCH_WEBHOOK_URL" in result.message
