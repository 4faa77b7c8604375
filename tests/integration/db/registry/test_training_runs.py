"""Training runs: one at a time, taken over when dead, and the nightly decision recorded."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update
from support.ledger_driver import LedgerDriver, file_version, run_concurrently

from db.models import TrainingRun
from db.registry import training_runs
from db.registry.training_runs import StaleRunReaper, TrainingDecision, TrainingOutcome, TrainingState
from db.session import Database
from db.states import Verdict
from db.worklist import verdicts
from trainer.nightly import timetable

LEASE = 100.0


def begin(database: Database, token: str) -> int | None:
    return database.write(lambda c: training_runs.start_run(c, token, f"retrain@{token}"))


def renew(database: Database, token: str, stage: str = "training") -> bool:
    return database.write(lambda c: training_runs.renew_run(c, token, stage))


def finish(database: Database, token: str, decision: TrainingDecision = TrainingDecision.REFUSED, **more: Any) -> bool:
    return database.write(
        lambda c: training_runs.finish_run(c, token, TrainingOutcome(decision, ("A reason.",), **more))
    )


def rows(database: Database) -> list[dict[str, Any]]:
    """Oldest first."""
    return [dict(row) for row in reversed(database.read(lambda c: training_runs.recent_runs(c, 100)))]


def states(database: Database) -> list[str]:
    return [row["state"] for row in rows(database)]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_from_its_beginning_to_its_decision(database: Database) -> None:
    number = begin(database, "a")
    assert renew(database, "a")
    assert database.read(training_runs.running_run)["stage"] == "training"  # type: ignore[index]
    figures = {"frozen": {"auc": {"value": 0.001, "low": None}}}
    assert finish(database, "a", figures=figures, champion="one", challenger="two", new_labels=21, last_review_id=7)
    (row,) = rows(database)
    assert (row["id"], row["state"], row["decision"]) == (number, "finished", "refused")
    assert (row["reasons"], row["figures"]) == (["A reason."], figures)
    assert (row["champion"], row["challenger"], row["new_labels"], row["last_review_id"]) == ("one", "two", 21, 7)
    assert row["started_at"] <= row["renewed_at"] <= row["ended_at"]
    assert "token" not in row
    assert database.read(training_runs.running_run) is None
    assert database.read(lambda c: training_runs.get_run(c, row["id"]))["reasons"] == ["A reason."]


def test_one_at_a_time(database: Database) -> None:
    tokens = list("abcdef")
    begun = run_concurrently(*(lambda token=token: begin(database, token) for token in tokens))
    assert sum(number is not None for number in begun) == 1
    assert states(database) == ["running"]
    winner = next(token for token, number in zip(tokens, begun, strict=True) if number is not None)
    assert begin(database, winner) == next(filter(None, begun))  # tried again after an outage
    assert finish(database, winner)
    assert begin(database, "later") is not None


def test_whoever_was_taken_for_dead_decides_nothing(database: Database) -> None:
    begin(database, "a")
    assert database.write(lambda c: training_runs.fail_run(c, "a", "Its process ended.", TrainingState.KILLED))
    begin(database, "b")
    assert not renew(database, "a")
    assert not finish(database, "a", TrainingDecision.PROMOTED)
    assert not database.write(lambda c: training_runs.fail_run(c, "a", "It failed."))
    assert states(database) == ["killed", "running"]
    assert [row["reasons"] for row in rows(database)] == [["Its process ended."], []]


def test_begun_only_where_it_is_due(database: Database) -> None:
    assert database.write(lambda c: training_runs.start_run(c, "a", "by", lambda _: False)) is None
    assert states(database) == []


def test_a_reaper_takes_a_silent_run_for_dead_by_its_own_clock(database: Database) -> None:
    clock = Clock()
    reaper = StaleRunReaper(database, LEASE, clock)
    assert reaper.check() is None
    begin(database, "a")
    for _ in range(5):  # it lives, however long it takes
        clock.now += LEASE - 1
        assert reaper.check() is not None
        assert renew(database, "a")
    clock.now += 1
    assert reaper.check() is not None
    clock.now += LEASE - 1
    assert reaper.check() is not None
    clock.now += 1
    assert reaper.check() is None
    assert states(database) == ["killed"]
    assert "It made no progress" in rows(database)[0]["reasons"][0]


def test_a_reaper_believes_no_time_in_a_row(database: Database) -> None:
    """It may have been written by a machine whose clock is wrong."""
    begin(database, "a")
    long_ago = datetime.now(UTC) - timedelta(days=1)
    database.write(lambda c: c.execute(update(TrainingRun).values(renewed_at=long_ago)))
    assert StaleRunReaper(database, LEASE, Clock()).check() is not None
    assert states(database) == ["running"]


def test_what_the_attempts_have_seen(database: Database) -> None:
    seen_by = [
        (TrainingDecision.PROMOTED, 4),
        (TrainingDecision.REFUSED, 9),
        (TrainingDecision.NOTHING_TO_DO, None),
        (TrainingDecision.NO_BASE, 12),
    ]
    for number, (decision, last) in enumerate(seen_by):
        begin(database, str(number))
        finish(database, str(number), decision, last_review_id=last)
    assert database.read(lambda c: training_runs.newest_review_seen(c, *training_runs.TRAINED)) == 9
    assert database.read(lambda c: training_runs.newest_review_seen(c, TrainingDecision.PROMOTED)) == 4


@pytest.fixture
def reviewed(ledger: LedgerDriver) -> LedgerDriver:
    (scan_id,) = ledger.classify(file_version())
    ledger.database.write(lambda c: verdicts.record_verdict(c, scan_id, Verdict.PNEUMONIA, "ada"))
    return ledger


def is_due(ledger: LedgerDriver, now: datetime, retrain_at: str = "02:00") -> bool:
    return ledger.database.read(lambda c: timetable.is_retraining_due(c, retrain_at, now))


def test_a_nightly_run_is_due_until_it_has_its_row(reviewed: LedgerDriver) -> None:
    tomorrow = datetime.now().astimezone() + timedelta(days=1)
    assert is_due(reviewed, tomorrow)
    assert not is_due(reviewed, tomorrow, "never")
    begin(reviewed.database, "a")
    assert is_due(reviewed, tomorrow)  # that one began before tomorrow's moment
    reviewed.database.write(lambda c: c.execute(update(TrainingRun).values(started_at=tomorrow)))
    assert not is_due(reviewed, tomorrow)
    reviewed.database.write(lambda c: training_runs.fail_run(c, "a", "Killed.", TrainingState.KILLED))
    assert is_due(reviewed, tomorrow)


def test_nothing_is_due_before_the_first_verdict(ledger: LedgerDriver) -> None:
    assert not is_due(ledger, datetime.now().astimezone() + timedelta(days=1))
