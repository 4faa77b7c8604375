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

from db.dialect import wait_in_turn
from db.models import Review, Training
from db.session import Database

TRAININGS: Final[Any] = Training.__table__
TOLD: Final = [column for column in TRAININGS.c if column.name != "token"]
TURN: Final = "pneumowatch trainings"
LEASES: Final = 5  # of a worker's: how long nothing may be heard of a training; its steps are longer than a batch


class State(StrEnum):
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    KILLED = "killed"


class Decision(StrEnum):
    """What a finished attempt came to."""

    PROMOTED = "promoted"  # the challenger serves
    REFUSED = "refused"  # it was trained, and is not better, or worse
    NOTHING_TO_DO = "nothing_to_do"  # too few films were judged since the last one
    NO_BASE = "no_base"  # there is no base dataset to hold it against


TRAINED: Final = (Decision.PROMOTED, Decision.REFUSED)


@dataclass(frozen=True)
class Conclusion:
    """What an attempt's row says at its end. Reasons are sentences; figures are plain values for JSON."""

    decision: Decision
    reasons: tuple[str, ...]
    figures: dict[str, Any] = field(default_factory=dict)
    champion: str | None = None
    challenger: str | None = None
    new_labels: int | None = None
    last_review_id: int | None = None

    def row(self) -> dict[str, Any]:
        return {**vars(self), "reasons": list(self.reasons)}


def begin(
    connection: Connection, token: str, by: str, when: Callable[[Connection], bool] = lambda _: True
) -> int | None:
    """(new) -> running, under a token that nobody else has. None where another one runs, or `when` says no, which is
    asked while nobody else can begin."""
    wait_in_turn(connection, TURN)
    other = running(connection)
    if other is not None:
        return int(other["id"]) if other["token"] == token else None  # tried again after an outage
    if not when(connection):
        return None
    at = _now()
    row = {"state": State.RUNNING, "token": token, "by": by, "stage": "beginning", "started_at": at, "renewed_at": at}
    return int(
        connection.execute(
            insert(TRAININGS).values(**row, reasons=[], figures={}).returning(TRAININGS.c.id)
        ).scalar_one()
    )


def renew(connection: Connection, token: str, stage: str) -> bool:
    """It has made progress. False where it no longer runs: it was taken for dead."""
    return _change(connection, token, renewed_at=_now(), stage=stage)


def finish(connection: Connection, token: str, conclusion: Conclusion) -> bool:
    """running -> finished. False as `renew`: then nothing of it may be promoted."""
    return _change(connection, token, state=State.FINISHED, ended_at=_now(), **conclusion.row())


def fail(connection: Connection, token: str, reason: str, state: State = State.FAILED) -> bool:
    """running -> failed, or killed. False as `renew`."""
    return _change(connection, token, state=state, ended_at=_now(), reasons=[reason])


def running(connection: Connection) -> RowMapping | None:
    return connection.execute(select(TRAININGS).where(TRAININGS.c.state == State.RUNNING)).mappings().one_or_none()


def listed(connection: Connection, limit: int) -> Sequence[RowMapping]:
    """The newest attempts, the newest first; all columns but the token."""
    return connection.execute(select(*TOLD).order_by(TRAININGS.c.id.desc()).limit(limit)).mappings().all()


def one(connection: Connection, number: int) -> RowMapping:
    """An attempt by its id, as `listed`."""
    return connection.execute(select(*TOLD).where(TRAININGS.c.id == number)).mappings().one()


def begun_since(connection: Connection, at: datetime) -> list[State]:
    """The states of the attempts that began then or later."""
    return [State(state) for state in connection.scalars(select(TRAININGS.c.state).where(TRAININGS.c.started_at >= at))]


def known_since(connection: Connection) -> datetime | None:
    """Since when there may have been something to learn: the first verdict. None where there is none."""
    return connection.scalar(select(func.min(Review.reviewed_at)))


def seen_until(connection: Connection, *decisions: Decision) -> int:
    """The newest review that any attempt with one of these decisions looked at; 0 where there is none."""
    newest = select(func.max(TRAININGS.c.last_review_id)).where(TRAININGS.c.decision.in_(decisions))
    return int(connection.scalar(newest) or 0)


class Watchman:
    """Tells a training that lives from one whose process is gone, by the watcher's own monotonic clock: clocks of
    machines differ, and are set. A training is dead when its row was seen unchanged for `lease` seconds."""

    def __init__(self, database: Database, lease: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._lease = lease
        self._monotonic = monotonic
        self._seen: tuple[str, datetime] | None = None
        self._since = 0.0

    def look(self) -> RowMapping | None:
        """The training that runs; None where none does, or it was dead: that one is `killed` now."""
        row = self._database.read(running)
        if row is None:
            self._seen = None
            return None
        as_it_stands = (row["token"], row["renewed_at"])
        moment = self._monotonic()  # after the database was asked: an outage ages no lease
        if as_it_stands != self._seen:
            self._seen, self._since = as_it_stands, moment
        elif moment - self._since >= self._lease:
            self._database.write(lambda connection: _take_away(connection, *as_it_stands))
            return self._database.read(running)
        return row


def _take_away(connection: Connection, token: str, renewed_at: datetime) -> bool:
    gone = "Nothing was heard of it for too long: its process is gone."
    still = (TRAININGS.c.state == State.RUNNING, TRAININGS.c.token == token, TRAININGS.c.renewed_at == renewed_at)
    values = {"state": State.KILLED, "ended_at": _now(), "reasons": [gone]}
    return bool(connection.execute(update(TRAININGS).where(*still).values(values)).rowcount)


def _change(connection: Connection, token: str, **values: Any) -> bool:
    still = (TRAININGS.c.state == State.RUNNING, TRAININGS.c.token == token)
    return bool(connection.execute(update(TRAININGS).where(*still).values(values)).rowcount)


def _now() -> datetime:
    return datetime.now(UTC)
