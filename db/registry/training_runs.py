"""Training runs: one at a time in the whole deployment, each with its decision and its reasons.

    (new) ------> running ------> finished    came to a decision, whatever it is
                     |----------> failed      came to no decision; the reason says why
                     |----------> killed      interrupted: stopped, or its lease expired

The running row is the lease. Its holder renews it at each progress. Every change is a compare-and-set of the token, so
that a run whose row was taken away cannot promote anything.
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
LEASE_FACTOR: Final = 5  # times a worker's lease: the steps of a training take longer than a batch


class TrainingState(StrEnum):
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    KILLED = "killed"


class TrainingDecision(StrEnum):
    """The decision of a finished run."""

    PROMOTED = "promoted"  # the challenger is the champion now
    REFUSED = "refused"  # the challenger is worse, or not better
    NOTHING_TO_DO = "nothing_to_do"  # too few new verdicts since the last run
    NO_BASE = "no_base"  # there is no base dataset to compare on


TRAINED: Final = (TrainingDecision.PROMOTED, TrainingDecision.REFUSED)


@dataclass(frozen=True)
class TrainingOutcome:
    """The final columns of a run. Reasons are sentences; figures are plain values for JSON."""

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
    """Start a run: (new) -> running, under a token that nobody else has.

    Returns None if another one runs or `allowed` returns False, which is called while no other run can start.
    """
    lock_for_transaction(connection, TRAINING_LOCK)
    other = running_run(connection)
    if other is not None:
        return int(other["id"]) if other["token"] == token else None  # a retry after an outage
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
    """Renew the lease of a run after progress. Returns False if it no longer runs: it was considered dead."""
    return _update_run(connection, token, renewed_at=_now(), stage=stage)


def finish_run(connection: Connection, token: str, outcome: TrainingOutcome) -> bool:
    """Move running -> finished. Returns False as `renew_run` does; then nothing of it may be promoted."""
    return _update_run(connection, token, state=TrainingState.FINISHED, ended_at=_now(), **outcome.row())


def fail_run(connection: Connection, token: str, reason: str, state: TrainingState = TrainingState.FAILED) -> bool:
    """Move running -> failed or killed. Returns False as `renew_run` does."""
    return _update_run(connection, token, state=state, ended_at=_now(), reasons=[reason])


def running_run(connection: Connection) -> RowMapping | None:
    return (
        connection.execute(select(TRAINING_RUNS).where(TRAINING_RUNS.c.state == TrainingState.RUNNING))
        .mappings()
        .one_or_none()
    )


def recent_runs(connection: Connection, limit: int) -> Sequence[RowMapping]:
    """Return the newest runs, the newest first: all columns but the token."""
    return connection.execute(select(*PUBLIC_COLUMNS).order_by(TRAINING_RUNS.c.id.desc()).limit(limit)).mappings().all()


def get_run(connection: Connection, number: int) -> RowMapping:
    """Return a run by its id, with the columns of `recent_runs`."""
    return connection.execute(select(*PUBLIC_COLUMNS).where(TRAINING_RUNS.c.id == number)).mappings().one()


def run_states_since(connection: Connection, at: datetime) -> list[TrainingState]:
    """Return the states of the runs that started then or later."""
    return [
        TrainingState(state)
        for state in connection.scalars(select(TRAINING_RUNS.c.state).where(TRAINING_RUNS.c.started_at >= at))
    ]


def first_review_at(connection: Connection) -> datetime | None:
    """Return the time of the first verdict, since when there may be new labels; None without one."""
    return connection.scalar(select(func.min(Review.reviewed_at)))


def newest_review_seen(connection: Connection, *decisions: TrainingDecision) -> int:
    """Return the newest review that a run with one of these decisions used; 0 without one."""
    newest = select(func.max(TRAINING_RUNS.c.last_review_id)).where(TRAINING_RUNS.c.decision.in_(decisions))
    return int(connection.scalar(newest) or 0)


class StaleRunReaper:
    """Detects a run whose process is gone, and marks it as killed.

    A run is dead when its row was seen unchanged for `lease` seconds by the reaper's own monotonic clock: clocks of
    machines differ, and may be set.
    """

    def __init__(self, database: Database, lease: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._lease = lease
        self._monotonic = monotonic
        self._last_seen: tuple[str, datetime] | None = None
        self._unchanged_since = 0.0

    def check(self) -> RowMapping | None:
        """Return the running run, or None if there is none or it was dead, in which case it is `killed` now."""
        row = self._database.read(running_run)
        if row is None:
            self._last_seen = None
            return None
        current = (row["token"], row["renewed_at"])
        now = self._monotonic()  # after the query: an outage does not age the lease
        if current != self._last_seen:
            self._last_seen, self._unchanged_since = current, now
        elif now - self._unchanged_since >= self._lease:
            self._database.write(lambda connection: _kill_run(connection, *current))
            return self._database.read(running_run)
        return row


def _kill_run(connection: Connection, token: str, renewed_at: datetime) -> bool:
    reason = "It made no progress for too long: its process is gone."
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
