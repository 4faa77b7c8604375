"""Attempts at a better model: one at a time in the whole deployment, each with its decision and its reasons.

    (new) ------> running ------> finished    came to a decision, whatever it is
                     |----------> failed      could not come to one; the reason says why
                     |----------> killed      ended in the middle: stopped, or not heard of for a lease

The running row is the lease. Whoever holds it renews it by progress; every move is a compare-and-set by its token, so
that an attempt whose row was taken away can promote nothing.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Connection, RowMapping, func, insert, select, update

from db.dialect import lock_for_transaction
from db.models import Review, TrainingRun
from db.session import Database

TRAINING_RUNS: Final[Any] = TrainingRun.__table__
PUBLIC_COLUMNS: Final = [column for column in TRAINING_RUNS.c if column.name != "token"]
TRAINING_LOCK: Final = "pneumowatch trainings"
LEASE_FACTOR: Final = 5  # of a worker's: how long nothing may be heard of a training; its steps are longer than a batch


class TrainingState(StrEnum):
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    KILLED = "killed"


class TrainingDecision(StrEnum):
    """What a finished attempt came to."""

    PROMOTED = "promoted"  # the challenger serves
    REFUSED = "refused"  # it was trained, and is not better, or worse
    NOTHING_TO_DO = "nothing_to_do"  # too few films were judged since the last one
    NO_BASE = "no_base"  # there is no base dataset to hold it against


TRAINED: Final = (TrainingDecision.PROMOTED, TrainingDecision.REFUSED)


@dataclass(frozen=True)
class TrainingOutcome:
    """What an attempt's row says at its end. Reasons are sentences; figures are plain values for JSON."""

    decision: TrainingDecision
    reasons: tuple[str, ...]
    figures: dict[str, Any] = field(default_factory=dict)
    champion: str | None = None
    challenger: str | None = None
    new_labels: int | None = None
    last_review_id: int | None = None

    def row(self) -> dict[str, Any]:
        return {**vars(self), "reasons": list(self.reasons)}


def start_run(
    connection: Connection, token: str, by: str, allowed: Callable[[Connection], bool] = lambda _: True
) -> int | None:
    """(new) -> running, under a token that nobody else has. None where another one runs, or `allowed` says no, which is
    asked while nobody else can begin."""
    lock_for_transaction(connection, TRAINING_LOCK)
    other = running_run(connection)
    if other is not None:
        return int(other["id"]) if other["token"] == token else None  # tried again after an outage
    if not allowed(connection):
        return None
    at = _now()
    row = {
        "state": TrainingState.RUNNING,
        "token": token,
        "by": by,
        "stage": "beginning",
        "started_at": at,
        "renewed_at": at,
    }
    return int(
        connection.execute(
            insert(TRAINING_RUNS).values(**row, reasons=[], figures={}).returning(TRAINING_RUNS.c.id)
        ).scalar_one()
    )


def renew_run(connection: Connection, token: str, stage: str) -> bool:
    """It has made progress. False where it no longer runs: it was taken for dead."""
    return _update_run(connection, token, renewed_at=_now(), stage=stage)


def finish_run(connection: Connection, token: str, outcome: TrainingOutcome) -> bool:
    """running -> finished. False as `renew_run`: then nothing of it may be promoted."""
    return _update_run(connection, token, state=TrainingState.FINISHED, ended_at=_now(), **outcome.row())


def fail_run(connection: Connection, token: str, reason: str, state: TrainingState = TrainingState.FAILED) -> bool:
    """running -> failed, or killed. False as `renew_run`."""
    return _update_run(connection, token, state=state, ended_at=_now(), reasons=[reason])


def running_run(connection: Connection) -> RowMapping | None:
    return (
        connection.execute(select(TRAINING_RUNS).where(TRAINING_RUNS.c.state == TrainingState.RUNNING))
        .mappings()
        .one_or_none()
    )


def recent_runs(connection: Connection, limit: int) -> Sequence[RowMapping]:
    """The newest attempts, the newest first; all columns but the token."""
    return connection.execute(select(*PUBLIC_COLUMNS).order_by(TRAINING_RUNS.c.id.desc()).limit(limit)).mappings().all()


def get_run(connection: Connection, number: int) -> RowMapping:
    """An attempt by its id, as `recent_runs`."""
    return connection.execute(select(*PUBLIC_COLUMNS).where(TRAINING_RUNS.c.id == number)).mappings().one()


def run_states_since(connection: Connection, at: datetime) -> list[TrainingState]:
    """The states of the attempts that began then or later."""
    return [
        TrainingState(state)
        for state in connection.scalars(select(TRAINING_RUNS.c.state).where(TRAINING_RUNS.c.started_at >= at))
    ]


def first_review_at(connection: Connection) -> datetime | None:
    """Since when there may have been something to learn: the first verdict. None where there is none."""
    return connection.scalar(select(func.min(Review.reviewed_at)))


def newest_review_seen(connection: Connection, *decisions: TrainingDecision) -> int:
    """The newest review that any attempt with one of these decisions looked at; 0 where there is none."""
    newest = select(func.max(TRAINING_RUNS.c.last_review_id)).where(TRAINING_RUNS.c.decision.in_(decisions))
    return int(connection.scalar(newest) or 0)


class StaleRunReaper:
    """Tells a training that lives from one whose process is gone, by the watcher's own monotonic clock: clocks of
    machines differ, and are set. A training is dead when its row was seen unchanged for `lease` seconds."""

    def __init__(self, database: Database, lease: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._lease = lease
        self._monotonic = monotonic
        self._last_seen: tuple[str, datetime] | None = None
        self._unchanged_since = 0.0

    def check(self) -> RowMapping | None:
        """The training that runs; None where none does, or it was dead: that one is `killed` now."""
        row = self._database.read(running_run)
        if row is None:
            self._last_seen = None
            return None
        current = (row["token"], row["renewed_at"])
        now = self._monotonic()  # after the database was asked: an outage ages no lease
        if current != self._last_seen:
            self._last_seen, self._unchanged_since = current, now
        elif now - self._unchanged_since >= self._lease:
            self._database.write(lambda connection: _kill_run(connection, *current))
            return self._database.read(running_run)
        return row


def _kill_run(connection: Connection, token: str, renewed_at: datetime) -> bool:
    reason = "Nothing was heard of it for too long: its process is gone."
    unchanged = (
        TRAINING_RUNS.c.state == TrainingState.RUNNING,
        TRAINING_RUNS.c.token == token,
        TRAINING_RUNS.c.renewed_at == renewed_at,
    )
    values = {"state": TrainingState.KILLED, "ended_at": _now(), "reasons": [reason]}
    return bool(connection.execute(update(TRAINING_RUNS).where(*unchanged).values(values)).rowcount)


def _update_run(connection: Connection, token: str, **values: Any) -> bool:
    unchanged = (TRAINING_RUNS.c.state == TrainingState.RUNNING, TRAINING_RUNS.c.token == token)
    return bool(connection.execute(update(TRAINING_RUNS).where(*unchanged).values(values)).rowcount)


def _now() -> datetime:
    return datetime.now(UTC)
