"""The outbox: notifications about newly flagged scans, one row per scan and channel.

    (new) ------> waiting ------> sent        its destination has accepted it
                   |  ^  |------> given_up    it failed for days, or the destination refuses it
                   |__|           again by `pneumowatch outbox --retry`: given_up -> waiting

A row is written in the transaction that flags its scan, so that neither exists without the other. A sender claims a
waiting row under a token for a lease: it moves `not_before` to the end of the lease. It writes the outcome by a
compare-and-set of the token. If a sender dies in between, the row is due again when the lease ends, and its message is
sent once more under the same id.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, case, func, literal_column, or_, select, update

from db.dialect import dialect_name, insert_or_ignore, lock_for_transaction
from db.ledger.outcomes import Classified
from db.ledger.queries import file_locations
from db.models import Outbox, Prediction, Scan
from pneumowatch.notification import PACS, Notification

OUTBOX: Final[Any] = Outbox.__table__
LOCK_NAME: Final = "pneumowatch outbox"
# attempts before a row is given up, however long ago the first was: the sender may not have run in between
MIN_ATTEMPTS: Final = 10


class OutboxState(StrEnum):
    WAITING = "waiting"
    SENT = "sent"
    GIVEN_UP = "given_up"


@dataclass(frozen=True)
class Delivery:
    """Notifications that a sender has claimed, all for one channel."""

    token: str
    notifications: tuple[Notification, ...]


def enqueue(connection: Connection, outcomes: Sequence[Classified], channels: Sequence[str], at: datetime) -> None:
    """Add (new) -> waiting for each of these scans that is flagged and each channel; for a PACS only DICOM scans.

    A scan that has a row for a channel gets no other.
    """
    values = [
        {
            "scan_id": outcome.scan_id,
            "channel": channel,
            "model_version": outcome.model_version,
            "state": OutboxState.WAITING,
            "since": at,
            "attempts": 0,
            "not_before": at,
        }
        for outcome in outcomes
        for channel in channels
        if outcome.flagged and (channel != PACS or _is_instance(outcome))
    ]
    if values:
        connection.execute(insert_or_ignore(dialect_name(connection), OUTBOX).values(values))


def has_due(connection: Connection, channel: str, max_delay: timedelta) -> bool:
    """Tell whether `claim_delivery` would find anything. Takes no write lock."""
    due = select(Outbox.id).where(_is_waiting(), Outbox.channel == channel, _is_due(_now(), max_delay))
    return bool(connection.scalar(select(due.exists())))


def claim_delivery(
    connection: Connection,
    channel: str,
    count: int,
    lease: timedelta,
    deployment: UUID,
    max_delay: timedelta,
    min_interval: timedelta = timedelta(0),
) -> Delivery | None:
    """Claim up to `count` notifications that are due, for a lease; those that have waited longest first.

    Returns None if none is due. With `min_interval`, it also returns None while another sender holds some, or if the
    last ones were sent less than that ago.

    `max_delay`: the longest delay. A later `not_before` was written before a clock was set back, and counts as due.
    """
    at = _now()
    if min_interval:
        lock_for_transaction(connection, f"{LOCK_NAME} {channel}")
        if connection.scalar(_held_or_sent(channel, at, at - min_interval, max_delay)):
            return None
    due = select(Outbox.id).where(_is_waiting(), Outbox.channel == channel, _is_due(at, max_delay))
    ids = list(connection.scalars(due.order_by(Outbox.not_before).limit(count).with_for_update(skip_locked=True)))
    if not ids:
        return None
    token = secrets.token_hex(16)
    # the time until giving up starts with the first attempt: before that, perhaps no sender ran
    tried_since = case((Outbox.attempts == 0, at), else_=Outbox.since)
    held = {"token": token, "not_before": at + lease, "attempts": Outbox.attempts + 1, "since": tried_since}
    connection.execute(update(Outbox).where(Outbox.id.in_(ids), _is_waiting()).values(held))
    rows = connection.execute(_notification_rows().where(Outbox.id.in_(ids)).order_by(Outbox.scan_id)).all()
    where = {row.scan_id: _file_locations(connection, row.scan_id) for row in rows} if channel == PACS else {}
    notifications = (
        Notification(deployment=deployment, copies=where.get(row.scan_id, ()), **row._mapping) for row in rows
    )
    return Delivery(token, tuple(notifications))


def mark_sent(connection: Connection, token: str) -> int:
    """Move waiting -> sent. Returns the number of rows that were still held under the token."""
    return _end_claim(connection, token, OutboxState.SENT)


def give_up(connection: Connection, token: str, error: str) -> int:
    """Move waiting -> given_up: the destination will never accept it."""
    return _end_claim(connection, token, OutboxState.GIVEN_UP, last_error=error)


def retry_later(
    connection: Connection, token: str, error: str, delay: Callable[[int], timedelta], give_up_after: timedelta
) -> int:
    """Record a failed attempt: the rows are due again after a delay that grows with the attempts.

    Moves waiting -> given_up instead where the first attempt is at least `give_up_after` ago and there were
    MIN_ATTEMPTS attempts. Returns how many were given up.
    """
    at, given_up = _now(), 0
    held = (
        select(Outbox.id, Outbox.attempts, Outbox.since).where(Outbox.token == token, _is_waiting()).order_by(Outbox.id)
    )
    for row in connection.execute(held.with_for_update()).all():
        ends = at - row.since >= give_up_after and row.attempts >= MIN_ATTEMPTS
        given_up += ends
        values: dict[str, Any] = {"last_error": error, "token": None}
        values |= _ended_values(OutboxState.GIVEN_UP, at) if ends else {"not_before": at + delay(row.attempts)}
        connection.execute(update(Outbox).where(Outbox.id == row.id).values(values))
    return given_up


def release_claims(connection: Connection) -> None:
    """Make the rows due that are held by senders which no longer run."""
    held = (_is_waiting(), Outbox.token.is_not(None))
    connection.execute(update(Outbox).where(*held).values(token=None, not_before=_now()))


def retry_now(connection: Connection, *channels: str) -> None:
    """Make rows due that wait for their next attempt, as the destination works again; only in `channels`, if given."""
    at = _now()
    later = [_is_waiting(), Outbox.token.is_(None), Outbox.not_before > at]
    chosen = [*later, Outbox.channel.in_(channels)] if channels else later
    connection.execute(update(Outbox).where(*chosen).values(not_before=at))


def requeue_given_up(connection: Connection) -> int:
    """Move given_up -> waiting and make all waiting rows due. Returns how many had been given up."""
    retry_now(connection)
    at = _now()
    anew = {"state": OutboxState.WAITING, "since": at, "not_before": at, "ended_at": None, "attempts": 0}
    return connection.execute(update(Outbox).where(Outbox.state == OutboxState.GIVEN_UP).values(anew)).rowcount


def counts_by_channel(connection: Connection) -> dict[str, dict[str, int]]:
    """Return {channel: {state: count}} of the channels that were ever used, with every state."""
    rows = connection.execute(
        select(Outbox.channel, Outbox.state, func.count())
        .group_by(Outbox.channel, Outbox.state)
        .order_by(Outbox.channel)
    )
    channels: dict[str, dict[str, int]] = {}
    for channel, state, count in rows:
        channels.setdefault(channel, {str(state): 0 for state in OutboxState})[state] = count
    return channels


@dataclass(frozen=True)
class Backlog:
    """The undelivered messages of one channel: waiting ones, the time of the oldest of them, and those given up."""

    waiting: int = 0
    since: datetime | None = None
    given_up: int = 0


def backlogs(connection: Connection) -> dict[str, Backlog]:
    """Return {channel: its backlog} of the channels that have one.

    Reads partial indexes alone, so the cost is that of counting the rows.
    """
    found: dict[str, Backlog] = {}
    for state in (OutboxState.WAITING, OutboxState.GIVEN_UP):
        chosen = select(Outbox.channel, func.count(), func.min(Outbox.since))
        for channel, number, since in connection.execute(chosen.where(_in_state(state)).group_by(Outbox.channel)):
            one = found.get(channel, Backlog())
            waits = state is OutboxState.WAITING
            found[channel] = replace(one, waiting=number, since=since) if waits else replace(one, given_up=number)
    return found


def undelivered(connection: Connection, limit: int) -> Sequence[dict[str, Any]]:
    """Return rows that were given up or wait, the oldest first, at most `limit`."""
    columns = ("scan_id", "channel", "state", "since", "attempts", "last_error", "not_before")
    chosen = select(*(OUTBOX.c[column] for column in columns)).where(OUTBOX.c.state != OutboxState.SENT)
    rows = connection.execute(chosen.order_by(OUTBOX.c.state, OUTBOX.c.since, OUTBOX.c.id).limit(limit)).mappings()
    return [dict(row) for row in rows]


def _is_instance(outcome: Classified) -> bool:
    return bool(outcome.header and outcome.header.study_uid and outcome.header.sop_uid)


def _is_waiting() -> ColumnElement[bool]:
    return _in_state(OutboxState.WAITING)


def _in_state(state: OutboxState) -> ColumnElement[bool]:
    """Compare the state with a literal in the SQL; with a parameter, the partial index on it cannot be used."""
    return Outbox.state == literal_column(f"'{state}'")


def _is_due(at: datetime, max_delay: timedelta) -> ColumnElement[bool]:
    return or_(Outbox.not_before <= at, Outbox.not_before > at + max_delay)


def _held_or_sent(channel: str, at: datetime, since: datetime, max_delay: timedelta) -> Any:
    mine = (Outbox.channel == channel, Outbox.token.is_not(None))
    held = select(Outbox.id).where(_is_waiting(), *mine, Outbox.not_before > at, Outbox.not_before <= at + max_delay)
    sent = select(Outbox.id).where(
        _in_state(OutboxState.SENT), Outbox.channel == channel, Outbox.ended_at.between(since, at)
    )
    return select(held.exists() | sent.exists())


def _notification_rows() -> Any:
    """Select the columns of a `Notification`.

    The prediction is the one for which the row was written: another one may be current by now.
    """
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


def _file_locations(connection: Connection, scan_id: int) -> tuple[tuple[str, bytes], ...]:
    return tuple((place.inbox, place.path_bytes) for place in file_locations(connection, scan_id))


def _end_claim(connection: Connection, token: str, state: OutboxState, **values: Any) -> int:
    ended = {"token": None, **_ended_values(state, _now()), **values}
    return connection.execute(update(Outbox).where(Outbox.token == token, _is_waiting()).values(ended)).rowcount


def _ended_values(state: OutboxState, at: datetime) -> dict[str, Any]:
    return {"state": state, "ended_at": at}


def _now() -> datetime:
    return datetime.now(UTC)
