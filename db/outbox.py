"""The outbox: what is to be told of newly flagged scans, and to whom. One row a scan and way out, and never another.

    (new) ------> waiting ------> sent        its destination has taken it
                   |  ^  |------> given_up    for days it could not be delivered, or it is not wanted
                   |__|           again by `pneumowatch outbox --again`: given_up -> waiting

A row is written in the transaction that makes its scan flagged, so that neither is ever there without the other. While
it waits, a sender takes it under a token for a lease, by putting off when it is next due; what came of it is written by
compare-and-set of the token. A sender that dies in between leaves a row that falls due again when the lease ends: its
message goes out once more, under the same id.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, case, func, literal_column, or_, select, update

from db.dialect import insert_new, name, wait_in_turn
from db.models import Outbox, Prediction, Scan
from db.outcomes import Classified
from db.reviews import places
from pneumowatch.outgoing import PACS
from pneumowatch.outgoing.notice import Notice

OUTBOX: Final[Any] = Outbox.__table__
TURN: Final = "pneumowatch outbox"
FEWEST: Final = 10  # attempts before anything is given up, however long ago the first was: the sender may have been off


class State(StrEnum):
    WAITING = "waiting"
    SENT = "sent"
    GIVEN_UP = "given_up"


@dataclass(frozen=True)
class Parcel:
    """Notices that a sender holds, all for one way out."""

    token: str
    notices: tuple[Notice, ...]


def put(connection: Connection, outcomes: Sequence[Classified], kinds: Sequence[str], at: datetime) -> None:
    """(new) -> waiting, for each flagged one of these scans and each way out; a PACS is told of DICOM films alone.

    A scan that was told of before is not told of again.
    """
    values = [
        {
            "scan_id": outcome.scan_id,
            "kind": kind,
            "model_version": outcome.model_version,
            "state": State.WAITING,
            "since": at,
            "attempts": 0,
            "not_before": at,
        }
        for outcome in outcomes
        for kind in kinds
        if outcome.flagged and (kind != PACS or _is_instance(outcome))
    ]
    if values:
        connection.execute(insert_new(name(connection), OUTBOX).values(values))


def is_due(connection: Connection, kind: str, furthest: timedelta) -> bool:
    """Whether there is anything to `take`: a look that holds up no writer."""
    due = select(Outbox.id).where(_waiting(), Outbox.kind == kind, _due(_now(), furthest))
    return bool(connection.scalar(select(due.exists())))


def take(
    connection: Connection,
    kind: str,
    count: int,
    lease: timedelta,
    deployment: UUID,
    furthest: timedelta,
    every: timedelta = timedelta(0),
) -> Parcel | None:
    """Up to `count` notices that are due, those that have waited longest first, held for a lease.

    `furthest`: nothing is put off by more: a time to wait that is further away was written before a clock was set back.

    None where there are none or, with `every`, while one sender holds some or the last were sent less than that ago.
    """
    at = _now()
    if every:
        wait_in_turn(connection, f"{TURN} {kind}")
        if connection.scalar(_held_or_sent(kind, at, at - every, furthest)):
            return None
    due = select(Outbox.id).where(_waiting(), Outbox.kind == kind, _due(at, furthest))
    ids = list(connection.scalars(due.order_by(Outbox.not_before).limit(count).with_for_update(skip_locked=True)))
    if not ids:
        return None
    token = secrets.token_hex(16)
    tried_since = case((Outbox.attempts == 0, at), else_=Outbox.since)  # while no sender runs, nothing grows old
    held = {"token": token, "not_before": at + lease, "attempts": Outbox.attempts + 1, "since": tried_since}
    connection.execute(update(Outbox).where(Outbox.id.in_(ids), _waiting()).values(held))
    rows = connection.execute(_told().where(Outbox.id.in_(ids)).order_by(Outbox.scan_id)).all()
    where = {row.scan_id: _places(connection, row.scan_id) for row in rows} if kind == PACS else {}
    notices = (Notice(deployment=deployment, places=where.get(row.scan_id, ()), **row._mapping) for row in rows)
    return Parcel(token, tuple(notices))


def delivered(connection: Connection, token: str) -> int:
    """waiting -> sent. Returns how many were still held under the token."""
    return _end(connection, token, State.SENT)


def give_up(connection: Connection, token: str, error: str) -> int:
    """waiting -> given_up: the destination will never take it."""
    return _end(connection, token, State.GIVEN_UP, last_error=error)


def put_off(
    connection: Connection, token: str, error: str, delay: Callable[[int], timedelta], patience: timedelta
) -> int:
    """An attempt failed: due again after a delay that grows with the attempts or, where it has been tried for as long
    as `patience`, and often, waiting -> given_up. Returns how many were given up."""
    at, given_up = _now(), 0
    held = select(Outbox.id, Outbox.attempts, Outbox.since).where(Outbox.token == token, _waiting()).order_by(Outbox.id)
    for row in connection.execute(held.with_for_update()).all():
        ends = at - row.since >= patience and row.attempts >= FEWEST
        given_up += ends
        values: dict[str, Any] = {"last_error": error, "token": None}
        values |= _ended(State.GIVEN_UP, at) if ends else {"not_before": at + delay(row.attempts)}
        connection.execute(update(Outbox).where(Outbox.id == row.id).values(values))
    return given_up


def release(connection: Connection) -> None:
    """What senders held that are surely gone is due at once."""
    held = (_waiting(), Outbox.token.is_not(None))
    connection.execute(update(Outbox).where(*held).values(token=None, not_before=_now()))


def hasten(connection: Connection, *kinds: str) -> None:
    """What waits for its next attempt is due now, as its destination works again; `kinds`: these ways out alone."""
    at = _now()
    later = [_waiting(), Outbox.token.is_(None), Outbox.not_before > at]
    chosen = [*later, Outbox.kind.in_(kinds)] if kinds else later
    connection.execute(update(Outbox).where(*chosen).values(not_before=at))


def again(connection: Connection) -> int:
    """given_up -> waiting, and all that waits for its next attempt is due now. Returns how many of the former."""
    hasten(connection)
    at = _now()
    anew = {"state": State.WAITING, "since": at, "not_before": at, "ended_at": None, "attempts": 0}
    return connection.execute(update(Outbox).where(Outbox.state == State.GIVEN_UP).values(anew)).rowcount


def counts(connection: Connection) -> dict[str, dict[str, int]]:
    """{way out: {state: how many}}; only ways out that have ever been used, each with every state."""
    rows = connection.execute(
        select(Outbox.kind, Outbox.state, func.count()).group_by(Outbox.kind, Outbox.state).order_by(Outbox.kind)
    )
    ways: dict[str, dict[str, int]] = {}
    for kind, state, count in rows:
        ways.setdefault(kind, {str(state): 0 for state in State})[state] = count
    return ways


@dataclass(frozen=True)
class Backlog:
    """What one way out has not brought out: messages that wait, since when the oldest of them, and those given up."""

    waiting: int = 0
    since: datetime | None = None
    given_up: int = 0


def backlogs(connection: Connection) -> dict[str, Backlog]:
    """{way out: its backlog}, only of those that have one. As cheap as what it counts: read from partial indexes."""
    found: dict[str, Backlog] = {}
    for state in (State.WAITING, State.GIVEN_UP):
        chosen = select(Outbox.kind, func.count(), func.min(Outbox.since))
        for kind, number, since in connection.execute(chosen.where(_in(state)).group_by(Outbox.kind)):
            one = found.get(kind, Backlog())
            waits = state is State.WAITING
            found[kind] = replace(one, waiting=number, since=since) if waits else replace(one, given_up=number)
    return found


def undelivered(connection: Connection, limit: int) -> Sequence[dict[str, Any]]:
    """What was given up and what waits, the oldest first; `limit` rows at most."""
    columns = ("scan_id", "kind", "state", "since", "attempts", "last_error", "not_before")
    chosen = select(*(OUTBOX.c[column] for column in columns)).where(OUTBOX.c.state != State.SENT)
    rows = connection.execute(chosen.order_by(OUTBOX.c.state, OUTBOX.c.since, OUTBOX.c.id).limit(limit)).mappings()
    return [dict(row) for row in rows]


def _is_instance(outcome: Classified) -> bool:
    return bool(outcome.header and outcome.header.study_uid and outcome.header.sop_uid)


def _waiting() -> ColumnElement[bool]:
    return _in(State.WAITING)


def _in(state: State) -> ColumnElement[bool]:
    """As a literal in the SQL: else the partial index on it cannot be used."""
    return Outbox.state == literal_column(f"'{state}'")


def _due(at: datetime, furthest: timedelta) -> ColumnElement[bool]:
    return or_(Outbox.not_before <= at, Outbox.not_before > at + furthest)


def _held_or_sent(kind: str, at: datetime, since: datetime, furthest: timedelta) -> Any:
    mine = (Outbox.kind == kind, Outbox.token.is_not(None))
    held = select(Outbox.id).where(_waiting(), *mine, Outbox.not_before > at, Outbox.not_before <= at + furthest)
    sent = select(Outbox.id).where(_in(State.SENT), Outbox.kind == kind, Outbox.ended_at.between(since, at))
    return select(held.exists() | sent.exists())


def _told() -> Any:
    """The columns of a `Notice`. The prediction it was put for: another one may be current by now."""
    return (
        select(
            Outbox.scan_id,
            Scan.sha256,
            Scan.inbox.label("source"),
            Prediction.probability,
            Prediction.threshold,
            Prediction.model_version,
            Scan.caution,
            Scan.received_at,
            Scan.finished_at,
        )
        .join(Scan, Scan.id == Outbox.scan_id)
        .join(Prediction, (Prediction.scan_id == Scan.id) & (Prediction.model_version == Outbox.model_version))
    )


def _places(connection: Connection, scan_id: int) -> tuple[tuple[str, bytes], ...]:
    return tuple((place.inbox, place.path_bytes) for place in places(connection, scan_id))


def _end(connection: Connection, token: str, state: State, **values: Any) -> int:
    ended = {"token": None, **_ended(state, _now()), **values}
    return connection.execute(update(Outbox).where(Outbox.token == token, _waiting()).values(ended)).rowcount


def _ended(state: State, at: datetime) -> dict[str, Any]:
    return {"state": state, "ended_at": at}


def _now() -> datetime:
    return datetime.now(UTC)
