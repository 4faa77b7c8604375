"""Metrics computed from the ledger, on SQLite and PostgreSQL."""

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import Connection, update
from support.ledger_driver import BY, MODEL, LedgerDriver, classified, file_version, rejected
from support.query_plans import explain

from db.dialect import force_custom_plans
from db.health import drift
from db.health.ledger_metrics import LEDGER_FAMILIES, METRICS_CACHE_FACTOR, LedgerCollector, finished_counts
from db.ledger import outbox, transitions
from db.models import Model, Scan
from db.registry import model_registry, training_runs
from db.registry.training_runs import TrainingDecision, TrainingOutcome
from db.session import Database
from pneumowatch.settings import Settings

SETTINGS = Settings()


def told(collector: LedgerCollector) -> dict[str, dict[tuple[str, ...], float]]:
    return {
        family.name: {tuple(sample.labels.values()): sample.value for sample in family.samples}
        for family in collector.collect()
    }


@pytest.fixture
def collector(database: Database) -> LedgerCollector:
    return LedgerCollector(database, SETTINGS)


def test_images_by_source_and_state(ledger: LedgerDriver, database: Database, collector: LedgerCollector) -> None:
    ledger.register(*(file_version(f"{n}.png", inbox=inbox) for n in range(3) for inbox in ("ward", "clinic")))
    claim = ledger.claimed(3)
    ids = [scan.id for scan in claim.scans]
    outcomes = [classified(ids[0]), rejected(ids[1])]
    database.write(lambda c: transitions.record_outcomes(c, claim.token, outcomes, BY, ("webhook",)))
    found = told(collector)
    images = found["pneumowatch_scans"]
    assert len(images) == 2 * 6
    assert sum(images.values()) == 6
    assert sum(value for (_, state), value in images.items() if state == "queued") == 3
    assert sum(value for (_, state), value in images.items() if state == "running") == 1
    assert sum(found["pneumowatch_waiting_scans"].values()) == 4
    assert all(0 <= age < 60 for age in found["pneumowatch_oldest_waiting_seconds"].values())
    assert found["pneumowatch_unscored_scans"] == {("unreadable",): 1}
    assert found["pneumowatch_flagged_ratio"] == {(ledger.row(ids[0])["inbox"],): 1}
    assert found["pneumowatch_champion_info"] == {(MODEL,): 1}
    assert found["pneumowatch_outbox_messages"] == {
        ("webhook", outbox.OutboxState.WAITING): 1,
        ("webhook", outbox.OutboxState.GIVEN_UP): 0,
    }
    assert found["pneumowatch_drift_psi"] == {}  # one image, and a model without a reference


def test_the_oldest_waits_for_as_long_as_it_has(
    ledger: LedgerDriver, database: Database, collector: LedgerCollector
) -> None:
    ledger.register(file_version("a.png"), file_version("b.png"))
    an_hour_ago = transitions.utc_now() - timedelta(hours=1)
    database.write(lambda c: c.execute(update(Scan).where(Scan.path == "a.png").values(received_at=an_hour_ago)))
    assert told(collector)["pneumowatch_oldest_waiting_seconds"][("inbox",)] == pytest.approx(3600, abs=60)


def test_what_the_last_training_came_to(database: Database, collector: LedgerCollector) -> None:
    assert told(collector)["pneumowatch_last_training"] == {}
    database.write(lambda c: training_runs.start_run(c, "token-1", BY))
    database.write(lambda c: training_runs.fail_run(c, "token-1", "The disk is full."))
    database.write(lambda c: training_runs.start_run(c, "token-2", BY))
    running = told(LedgerCollector(database, SETTINGS))
    assert running["pneumowatch_last_training"][("running",)] == 1
    assert running["pneumowatch_last_training_timestamp_seconds"] == {}
    database.write(
        lambda c: training_runs.finish_run(
            c, "token-2", TrainingOutcome(TrainingDecision.REFUSED, ("It is no better.",))
        )
    )
    found = told(LedgerCollector(database, SETTINGS))
    assert {outcome for (outcome,), value in found["pneumowatch_last_training"].items() if value} == {"refused"}
    assert found["pneumowatch_last_training_timestamp_seconds"][()] == pytest.approx(
        transitions.utc_now().timestamp(), abs=60
    )


def test_a_source_that_drifts(ledger: LedgerDriver, database: Database, collector: LedgerCollector) -> None:
    """Of this source alone, and of the champion's readings."""
    reference = {"images": 100, "brightness": {"edges": [100.0], "shares": [0.5, 0.5]}}
    card = database.read(model_registry.registered_models)[0]["card"] | {"reference": reference}
    database.write(lambda c: c.execute(update(Model).values(card=card)))
    for inbox, levels in (("ward", (90.0, 110.0)), ("clinic", (110.0, 120.0))):
        ledger.register(*(file_version(f"{n}.png", inbox=inbox, mtime_ns=n) for n in range(drift.MIN_DRIFT_IMAGES)))
        claim = ledger.claimed(drift.MIN_DRIFT_IMAGES)
        read = (replace(classified(scan.id), brightness=levels[n % 2]) for n, scan in enumerate(claim.scans))
        ledger.finish(claim, *read)
    found = told(collector)["pneumowatch_drift_psi"]
    assert found[("ward", "brightness")] == pytest.approx(0)
    assert found[("clinic", "brightness")] > 0.25
    assert len(found) == 2  # of the rest the card has no reference


def test_an_outage_is_told_and_is_over_afterwards(sqlite_url: str) -> None:
    clock = [0.0]
    away = LedgerCollector(Database("postgresql://nobody@127.0.0.1:1/none"), SETTINGS, lambda: clock[0])
    assert told(away) == {"pneumowatch_database_up": {(): 0}}
    away._database = Database(sqlite_url)
    assert told(away)["pneumowatch_database_up"] == {(): 0}  # counted a moment ago
    clock[0] += 16
    assert told(away)["pneumowatch_database_up"] == {(): 1}


def test_what_took_long_is_not_counted_again_soon(ledger: LedgerDriver, database: Database) -> None:
    clock = iter(
        [0.0, 0.0, 10.0, 199.0, 10.0 * METRICS_CACHE_FACTOR, 10.0 * METRICS_CACHE_FACTOR, 10.0 * METRICS_CACHE_FACTOR]
    )
    collector = LedgerCollector(database, SETTINGS, lambda: next(clock))
    assert told(collector)["pneumowatch_scans"] == {}  # took ten seconds
    ledger.register(file_version())
    assert told(collector)["pneumowatch_scans"] == {}
    assert told(collector)["pneumowatch_scans"] != {}


def test_every_metric_of_the_ledger_is_told(collector: LedgerCollector) -> None:
    assert {family.name for family in collector.collect()} == {gauge.name for gauge in LEDGER_FAMILIES}


def test_counting_reads_no_table_from_end_to_end(postgres_ledger: LedgerDriver) -> None:
    def count(connection: Connection) -> None:
        force_custom_plans(connection)
        finished_counts(connection)
        drift.recent_predictions(connection, "ward")

    plans = [plan for plan in explain(postgres_ledger.database, count) if "scans" in plan]
    assert len(plans) == 2
    assert all("ix_scans_ended" in plan for plan in plans)
    assert not any("Seq Scan" in plan for plan in plans)
