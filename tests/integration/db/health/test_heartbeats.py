"""Heartbeats on both databases: what components write, and the health that follows."""

import time
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, text, update
from support.ledger_driver import LedgerDriver, classified, deferred, file_version
from support.services import Server
from support.waiting import eventually

from db import schema
from db.health import heartbeats
from db.health.heartbeat_writer import HEARTBEATS, HeartbeatWriter, writing_heartbeats
from db.health.heartbeats import SILENT_AFTER_SECONDS, HealthStatus, Readiness
from db.ledger import transitions
from db.models import Heartbeat
from db.session import Database
from pneumowatch.component import Component

LEASE = 60.0


def rows(database: Database) -> list[Any]:
    return database.read(lambda c: list(c.execute(select(HEARTBEATS).order_by(HEARTBEATS.c.component))))


def asked(database: Database) -> Readiness:
    return database.read(lambda c: heartbeats.readiness(c, LEASE))


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def write(database: Database, component: Component, pid: int = 1, **changed: Any) -> None:
    """Write a component's heartbeat as if from another process; `changed`: columns, or `age`: seconds it is old."""
    age = timedelta(seconds=changed.pop("age", 0))

    def work(connection: Any) -> None:
        row = (
            component.row(heartbeats.database_now(connection) - age)
            | {"pid": pid, "component": f"{component.kind}@m:{pid}"}
            | changed
        )
        connection.execute(HEARTBEATS.insert().values(row))

    database.write(work)


def verdicts(database: Database) -> dict[str, HealthStatus]:
    return {component.component: component.status for component in asked(database).components}


def test_components_are_written_while_they_live_and_leave_nothing(database: Database) -> None:
    with writing_heartbeats(database) as writer:
        worker, watcher = writer.add_component("worker"), writer.add_component("watcher")
        eventually(lambda: len(rows(database)) == 2)
        worker.set_status("idle", busy_state="reading")
        worker.record_progress(images=3)
        watcher.expect_within("the rescan of ward", 60)
        writer.add_component("schedule")  # makes it beat at once
        eventually(lambda: len(rows(database)) == 3)
        _, first, second = rows(database)
        assert (first.kind, first.expectations.keys(), first.done) == ("watcher", {"the rescan of ward"}, {})
        assert (second.kind, second.state, second.done) == ("worker", "idle", {"images": 3})
        assert second.started_at <= second.progress_at <= second.beat_at
        assert asked(database).ready
    assert rows(database) == []


def test_a_component_that_fails_stays_visible(database: Database) -> None:
    def fail() -> None:
        with writing_heartbeats(database) as writer:
            writer.add_component("worker")
            eventually(lambda: rows(database))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(rows(database)) == 1


def test_what_is_in_hand_makes_it_busy_until_it_is_done(database: Database) -> None:
    clock = Clock()
    component = Component("worker", clock)
    component.set_status("idle", busy_state="reading")
    with component.expecting("batch 1", 60) as idle_seconds:
        clock.now += 50
        idle_seconds()
        clock.now += 20
        row = component.row(transitions.utc_now())
        assert (row["state"], row["expectations"]) == (
            "reading",
            {"batch 1": {"idle_seconds": 20, "within_seconds": 60}},
        )
    assert (component.row(transitions.utc_now())["state"], component.row(transitions.utc_now())["expectations"]) == (
        "idle",
        {},
    )


@pytest.mark.parametrize("fault", ["no table", "nobody there"])
def test_a_database_that_does_not_take_it_costs_beats_and_nothing_else(own_redis: Server, fault: str) -> None:
    url = own_redis.url.replace("redis", "postgresql")  # something is there, but no database
    with closing(Database("sqlite://" if fault == "no table" else url)) as other:
        started = time.monotonic()
        with writing_heartbeats(other) as writer:
            component = writer.add_component("worker")
            eventually(lambda: writer._failing)
            component.record_progress(images=1)
        assert time.monotonic() - started < 60


def test_it_beats_again_after_an_outage(empty_database: Database) -> None:
    writer = HeartbeatWriter(empty_database, seconds=0.05)
    writer.start()
    writer.add_component("worker")
    eventually(lambda: writer._failing)
    schema.upgrade(empty_database)
    eventually(lambda: rows(empty_database))
    writer.close(clean=True)
    assert rows(empty_database) == []


def test_a_component_without_heartbeats_is_silent(database: Database) -> None:
    write(database, Component("worker"), 1)
    write(database, Component("watcher"), 2, age=SILENT_AFTER_SECONDS + 90)
    found = asked(database)
    assert verdicts(database) == {"worker@m:1": HealthStatus.HEALTHY, "watcher@m:2": HealthStatus.SILENT}
    assert not found.ready
    (silent,) = (component for component in found.components if component.status is HealthStatus.SILENT)
    assert silent.sentence.startswith("no heartbeat for 2 min")


def test_one_that_was_started_in_its_place_replaces_a_silent_one(database: Database) -> None:
    for pid in (1, 2):
        write(database, Component("worker"), pid, age=300)
    write(database, Component("schedule"), 8)
    assert verdicts(database) == {
        "worker@m:1": HealthStatus.SILENT, "worker@m:2": HealthStatus.SILENT, "schedule@m:8": HealthStatus.HEALTHY,
    }  # fmt: skip
    write(database, Component("worker"), 3)  # one for two
    assert list(verdicts(database).values()).count(HealthStatus.SILENT) == 1
    write(database, Component("worker"), 4)
    assert verdicts(database) == {
        "worker@m:3": HealthStatus.HEALTHY,
        "worker@m:4": HealthStatus.HEALTHY,
        "schedule@m:8": HealthStatus.HEALTHY,
    }


def test_one_that_ran_beside_it_is_no_replacement(database: Database) -> None:
    write(database, Component("worker"), 1, age=300)
    write(database, Component("worker"), 2, started_at=transitions.utc_now() - timedelta(hours=1))
    assert verdicts(database) == {"worker@m:1": HealthStatus.SILENT, "worker@m:2": HealthStatus.HEALTHY}


def test_what_was_expected_and_does_not_progress_is_stalled(database: Database) -> None:
    clock = Clock()
    component = Component("watcher", clock)
    component.expect_within("the rescan of ward", 100)
    clock.now += 99
    write(database, component, 1)
    clock.now += 201
    write(database, component, 2)
    assert verdicts(database) == {"watcher@m:1": HealthStatus.HEALTHY, "watcher@m:2": HealthStatus.STALLED}
    (stalled,) = (one for one in asked(database).components if one.status is HealthStatus.STALLED)
    assert stalled.sentence.startswith("runs, but the rescan of ward: no progress for 5 min")


def old_worker(database: Database, pid: int = 1, **expectations: Any) -> None:
    clock = Clock()
    component = Component("worker", clock)
    clock.now += 3 * LEASE
    write(database, component, pid, **expectations)


def test_an_idle_worker_is_well_while_nothing_waits(ledger: LedgerDriver) -> None:
    old_worker(ledger.database)
    assert asked(ledger.database).ready


def test_an_idle_worker_while_images_wait_is_stalled(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.add(file_version())
    old_worker(ledger.database)
    assert asked(ledger.database).ready  # just announced
    ledger.set(scan_id, announced_at=transitions.utc_now() - timedelta(seconds=2 * LEASE + 1))
    (worker,) = asked(ledger.database).components
    assert (worker.status, worker.sentence[:37]) == (HealthStatus.STALLED, "runs, but scans wait and it has proce")
    ledger.finish(ledger.claimed(), classified(scan_id))
    assert asked(ledger.database).ready


def test_images_that_are_not_due_accuse_nobody(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.add(file_version())
    ledger.finish(ledger.claimed(), deferred(scan_id, seconds=600))
    old_worker(ledger.database)
    assert asked(ledger.database).ready


def test_images_wait_and_there_is_no_worker(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.add(file_version())
    write(ledger.database, Component("watcher"))
    assert asked(ledger.database).ready
    ledger.set(scan_id, announced_at=transitions.utc_now() - timedelta(hours=1))
    found = asked(ledger.database)
    assert not found.ready
    assert [component.sentence for component in found.components if component.kind == "worker"] == [
        "scans wait and there is no worker: start `pneumowatch work` (or `up`)"
    ]


def test_components_that_never_came_back_are_forgotten_after_a_day(database: Database) -> None:
    write(database, Component("worker"), 1, age=3 * 86400)
    with writing_heartbeats(database) as writer:
        writer.add_component("watcher")
        eventually(lambda: [row.kind for row in rows(database)] == ["watcher"])


def test_clocks_of_machines_do_not_count(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine is an hour behind: its heartbeat carries the database's time."""

    class Behind(heartbeats.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return super().now(tz) - timedelta(hours=1)

    monkeypatch.setattr(transitions, "datetime", Behind)
    with writing_heartbeats(database) as writer:
        writer.add_component("worker")
        eventually(lambda: rows(database))
        assert asked(database).ready
        assert database.read(lambda c: c.scalar(text("SELECT count(*) FROM heartbeats"))) == 1


def test_readiness_reads_no_table_from_end_to_end(ledger: LedgerDriver) -> None:
    """Load balancers ask every few seconds."""
    ledger.add(*(file_version(f"{number}") for number in range(3)))
    ledger.database.write(lambda c: c.execute(update(Heartbeat).values(state="idle")))

    def plan(connection: Any) -> str:
        statement = "SELECT id FROM scans WHERE state = 'queued' AND announced_at < '2026-01-01' LIMIT 1"
        if connection.dialect.name == "sqlite":
            return " ".join(row.detail for row in connection.execute(text(f"EXPLAIN QUERY PLAN {statement}")))
        connection.execute(text("SET LOCAL enable_seqscan = off"))
        return " ".join(connection.execute(text(f"EXPLAIN {statement}")).scalars())

    found = ledger.database.read(plan)  # either index holds only what waits or is read
    assert "ix_scans_waiting" in found or "ix_scans_received" in found
