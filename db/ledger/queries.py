"""Queries of the ledger. None of them changes anything."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import Boolean, Connection, func, select, text

from db.ledger.statements import in_state
from db.models import Scan, UtcDateTime
from db.states import FINAL, WAITING, State

COLUMN_TYPES: Final[dict[str, Any]] = {
    "flagged": Boolean,
    **dict.fromkeys(("received_at", "finished_at", "reviewed_at"), UtcDateTime),
}
VIEWS: Final = ("flagged_cases", "unscored_cases", "scan_ledger")


class FileLocation(NamedTuple):
    """A path at which the image of a scan may be found."""

    id: int
    inbox: str
    path_bytes: bytes
    sha256: str | None


def counts_by_state(connection: Connection) -> dict[State, int]:
    """Count the scans in each state; states without scans are included with 0."""
    rows = connection.execute(select(Scan.state, func.count()).group_by(Scan.state))
    return dict.fromkeys(State, 0) | {State(state): count for state, count in rows}


def counts_by_source(connection: Connection) -> dict[str, dict[State, int]]:
    rows = connection.execute(
        select(Scan.inbox, Scan.state, func.count()).group_by(Scan.inbox, Scan.state).order_by(Scan.inbox)
    )
    sources: dict[str, dict[State, int]] = {}
    for inbox, state, count in rows:
        sources.setdefault(inbox, dict.fromkeys(State, 0))[State(state)] = count
    return sources


def count_waiting(connection: Connection) -> int:
    """Count the scans without a final state."""
    return connection.scalar(select(func.count()).where(in_state(*WAITING))) or 0


def count_finished(connection: Connection) -> int:
    return connection.scalar(select(func.count()).where(in_state(*FINAL))) or 0


def waiting_states(connection: Connection, scan_ids: Sequence[int]) -> dict[int, State]:
    """Return the states of those of these scans that have no final state yet."""
    rows = connection.execute(select(Scan.id, Scan.state).where(Scan.id.in_(scan_ids), Scan.state.in_(WAITING)))
    return {row.id: State(row.state) for row in rows}


def last_finished_at(connection: Connection) -> datetime | None:
    return connection.scalar(select(func.max(Scan.finished_at)))


def current_state(connection: Connection, inbox: str, path_sha256: bytes) -> State | None:
    """Return the state of the current scan of a path, or None if the path has none."""
    same_path = (Scan.inbox == inbox, Scan.path_sha256 == path_sha256)
    state = connection.scalar(select(Scan.state).where(*same_path, Scan.superseded_by.is_(None)))
    return State(state) if state else None


def oldest_waiting(connection: Connection) -> datetime | None:
    return connection.scalar(select(func.min(Scan.received_at)).where(in_state(*WAITING)))


def oldest_waiting_by_source(connection: Connection) -> dict[str, datetime]:
    """Return when the oldest waiting scan of each source was received; sources without one are left out."""
    statement = select(Scan.inbox, func.min(Scan.received_at)).where(in_state(*WAITING)).group_by(Scan.inbox)
    return {row[0]: row[1] for row in connection.execute(statement.order_by(Scan.inbox))}


def file_locations(connection: Connection, scan_id: int) -> list[FileLocation]:
    """Return the paths of a scan's original, then of its duplicates, as they were when read."""
    columns = (Scan.id, Scan.inbox, Scan.path_bytes, Scan.sha256)
    original = connection.scalar(select(Scan.duplicate_of).where(Scan.id == scan_id)) or scan_id
    rows = connection.execute(
        select(*columns)
        .where((Scan.id == original) | (Scan.duplicate_of == original))
        .order_by(Scan.id != original, Scan.id)
    )
    return [FileLocation(*row) for row in rows]


def count_view_rows(connection: Connection, view: str, unread: bool = False) -> int:
    return connection.scalar(text(f"SELECT count(*) {_from(view, unread)}")) or 0


def view_rows(connection: Connection, view: str, limit: int, unread: bool = False) -> Sequence[dict[str, Any]]:
    """Return the first `limit` rows of one of the SQL views, in the view's order, each as {column: value}."""
    # SQLite has neither times nor booleans: the types convert its text and numbers
    statement = text(f"SELECT * {_from(view, unread)} LIMIT :limit").columns(**COLUMN_TYPES)
    return [dict(row) for row in connection.execute(statement, {"limit": limit}).mappings()]


def _from(view: str, unread: bool) -> str:
    if view not in VIEWS:
        raise ValueError(f"no such view: {view}")
    return f"FROM {view}" + (" WHERE verdict IS NULL" if unread else "")
