"""The transitions of scans: the only module that changes a state.

Each function runs inside a transaction of its caller (`Database.write`) and moves rows by compare-and-set. A row that
is no longer in the state, or no longer has the claim's token, is left alone. Each move writes one event row.
`db.states` shows the states and the transitions between them.
"""

import secrets
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, and_, false, func, or_, select, update

from db.dialect import dialect_name, prefer_index_order, rows_parameter
from db.ledger import duplicates, outbox, statements, superseding
from db.ledger.file_version import FileVersion
from db.ledger.outcomes import (
    HEADER_COLUMNS,
    Claim,
    ClaimedScan,
    Classified,
    Deferred,
    Outcome,
    Rejected,
    header_values,
)
from db.ledger.statements import in_state
from db.models import Scan
from db.states import REJECTED_UNREAD, REQUEUEABLE, Reason, State

Condition = ColumnElement[bool]

# The longest delay of a scan: a `not_before` further away was written before a clock was set back.
MAX_DELAY: Final = timedelta(minutes=5)
# How long a scan waits behind others after its worker died while processing it alone: once, and more often. Workers
# are also killed for reasons unrelated to their scans, and must not start with the same scan each time.
COOLDOWNS: Final = timedelta(seconds=30), timedelta(minutes=10)
# columns of an erased scan
TOMBSTONE: Final[dict[str, Any]] = {
    "path": "",
    "path_bytes": b"",
    "reason": Reason.ERASED,
    "detail": "All data of this scan was erased on request.",
    "worklist_rank": None,
    "hidden_until_verdict": False,
    "sampled_share": None,
    **dict.fromkeys(("sha256", "probability", "flagged", "caution", "model_version", "threshold")),
    **dict.fromkeys(("duplicate_of", "current_duplicate", "verdict", "reviewer", "reviewed_at")),
    **dict.fromkeys(HEADER_COLUMNS),
}


def utc_now() -> datetime:
    return datetime.now(UTC)


def insert_scans(connection: Connection, files: Sequence[FileVersion], by: str) -> dict[int, FileVersion]:
    """Move (new) -> queued, for files whose content has no row yet. Returns {scan id: file}.

    A file that another watcher registered at the same moment is not in the result. An older finished scan of the same
    path is superseded by the caller.

    The rows are written as announced (`announced_at`), which saves an update of every row afterwards. If the message
    cannot be sent, `mark_unannounced` corrects that. If the process dies in between, the sweep finds them after a
    lease.
    """
    at = utc_now()
    by_key = {(file.inbox, file.path_sha256): file for file in files}
    ordered = sorted(by_key.values(), key=lambda file: (file.inbox, file.path))  # so that two watchers never deadlock
    values = [file.row() for file in ordered]
    parameters = rows_parameter(values) | {"at": at}
    inserted = (
        connection.execute(statements.insert_queued(dialect_name(connection)), parameters).all() if values else []
    )
    created = {row.id: by_key[row.inbox, row.path_sha256] for row in inserted}
    if created:
        _record(connection, list(created), None, State.QUEUED, by, at)
    return created


def supersede(connection: Connection, superseded: dict[int, int]) -> None:
    """Mark finished scans, {scan: its successor}, whose path has newer content now. They keep their state."""
    superseding.set_superseded(connection, superseded)


def reinstate(connection: Connection, scan_id: int, successors: Sequence[int]) -> None:
    """Make a superseded scan current again, as its content is back at its path; it supersedes `successors`."""
    superseding.set_superseded(connection, {scan_id: None, **dict.fromkeys(successors, scan_id)})


def update_queued(connection: Connection, scan_id: int, file: FileVersion) -> bool:
    """Update a queued scan to its file, which has changed. Returns False if it is no longer queued."""
    at = utc_now()
    moved = connection.execute(
        update(Scan)
        .where(Scan.id == scan_id, in_state(State.QUEUED))
        .values(size=file.size, mtime_ns=file.mtime_ns, changed_at=at, not_before=at, announced_at=at)
    )
    return bool(moved.rowcount)


def make_due(connection: Connection, inbox: str) -> None:
    """Make the queued scans of an inbox due that is available again, whatever their delay."""
    at = utc_now()
    connection.execute(
        update(Scan).where(in_state(State.QUEUED), Scan.inbox == inbox, Scan.not_before > at).values(not_before=at)
    )


def mark_file_complete(connection: Connection, scan_id: int) -> None:
    """Record that the file of a queued scan is complete.

    If it cannot be read, it is rejected at once, without waiting for more bytes.
    """
    long_ago = utc_now() - timedelta(days=1)
    connection.execute(update(Scan).where(Scan.id == scan_id, in_state(State.QUEUED)).values(changed_at=long_ago))


def mark_unannounced(connection: Connection, ids: Sequence[int]) -> None:
    """Mark these queued scans as unannounced, because the message could not be sent; the sweep announces them."""
    connection.execute(update(Scan).where(Scan.id.in_(ids), in_state(State.QUEUED)).values(announced_at=None))


def mark_announced(connection: Connection, where: Condition, limit: int) -> list[int]:
    """Mark up to `limit` queued scans that are due and match `where` as announced. Returns them, most urgent first."""
    at = utc_now()
    due = or_(Scan.not_before <= at, Scan.not_before > at + MAX_DELAY)
    ids = list(
        connection.scalars(
            select(Scan.id)
            .where(in_state(State.QUEUED), due, where)
            .order_by(Scan.priority, Scan.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
    )
    if ids:
        connection.execute(update(Scan).where(Scan.id.in_(ids)).values(announced_at=at))
    return ids


def claim(
    connection: Connection, count: int, by: str, lease: timedelta, overdue_after: timedelta | None = None
) -> Claim | None:
    """Move queued -> running: the most urgent `count` scans that are announced.

    If the most urgent one is quarantined, it is claimed alone. Scans that cool down are claimed only if nothing else
    waits.

    `overdue_after`: half of the claim goes to scans that have waited for longer, the oldest first, whatever their
    priority.
    """
    prefer_index_order(connection)
    at = utc_now()
    cooled_once, cooled_again = (at - rest for rest in COOLDOWNS)
    moments = {"at": at, "cooled_once": cooled_once, "cooled_again": cooled_again, "latest_plausible": at + MAX_DELAY}
    for include_cooling in (False, True):
        found = _most_urgent(connection, count, moments, overdue_after, include_cooling)
        if found:
            break
    else:
        return None
    scans = tuple(ClaimedScan(*row) for row in found)
    scans = scans[:1] if scans[0].lost_leases else tuple(scan for scan in scans if not scan.lost_leases)
    token = secrets.token_hex(16)
    ids = [scan.id for scan in scans]
    values = {"token": token, "by": by, "until": at + lease}
    connection.execute(statements.mark_running(dialect_name(connection)), _ids(ids) | values)
    _record(connection, ids, State.QUEUED, State.RUNNING, by, at)
    return Claim(token, scans)


def _most_urgent(
    connection: Connection,
    count: int,
    moments: dict[str, datetime],
    overdue_after: timedelta | None,
    include_cooling: bool,
) -> list[Any]:
    """Select and lock at most `count` scans: a worker that found the others locked would lose its permits."""
    # an odd slot, or the turn of a quarantined scan, is assigned at random
    odd = secrets.randbelow(2)
    old: list[Any] = []
    if overdue_after is not None and (share := (count + odd) // 2):
        values: dict[str, Any] = {"count": share, "received_by": moments["at"] - overdue_after}
        old = list(connection.execute(statements.overdue(include_cooling), moments | values))
    if not old:
        return list(connection.execute(statements.most_urgent(include_cooling), moments | {"count": count}))
    values = {"count": count - len(old)} | _ids([row.id for row in old])
    urgent = list(
        connection.execute(statements.most_urgent_except(dialect_name(connection), include_cooling), moments | values)
    )
    return old + urgent if odd else urgent + old


def renew_lease(connection: Connection, claim: Claim, lease: timedelta, exclusive: bool = False) -> bool:
    """Renew the lease of running scans that have made progress. Returns False if they were taken back meanwhile.

    `exclusive`: the process holds nothing else now.
    """
    moved = connection.execute(
        update(Scan)
        .where(*_still_claimed(claim.token, [scan.id for scan in claim.scans]))
        .values(leased_until=utc_now() + lease, exclusive=exclusive)
    )
    return bool(moved.rowcount)


def record_outcomes(
    connection: Connection, token: str, outcomes: Sequence[Outcome], by: str, notification_channels: Sequence[str] = ()
) -> None:
    """Move running -> classified, duplicate, rejected or queued, for each scan that still has the claim's token.

    `notification_channels` get a notification of each flagged one (`Settings.notification_channels`).
    """
    prefer_index_order(connection)
    at = utc_now()
    parameters = _ids([outcome.scan_id for outcome in outcomes]) | {"token": token}
    held = set(connection.scalars(statements.lock_claimed(dialect_name(connection)), parameters))
    mine = sorted((outcome for outcome in outcomes if outcome.scan_id in held), key=lambda outcome: outcome.scan_id)
    originals = _classify(connection, [outcome for outcome in mine if isinstance(outcome, Classified)], by, at)
    if notification_channels:
        outbox.enqueue(connection, originals, notification_channels, at)
    for outcome in mine:
        if isinstance(outcome, Rejected):
            _reject(connection, outcome, by, at)
        elif isinstance(outcome, Deferred):
            _defer(connection, outcome, by, at)


def expire_claims(
    connection: Connection,
    claims: Iterable[tuple[int, str]],
    max_attempts: int,
    by: str,
    why: str = "the lease expired",
    delay_per_loss: timedelta = timedelta(),
) -> int:
    """Move running -> queued or failed, for (scan, token) pairs whose lease expired or whose worker gave them up.

    If the scan was alone in its process, it counts against the scan; after `max_attempts` times the scan is failed.
    Other scans return to the queue quarantined, to be processed alone.

    Args:
        why: the reason, for the event, and for people where the scan is failed.
        delay_per_loss: delay until a scan that was alone is due again, times how often this has happened to it.
    """
    at, moved = utc_now(), 0
    for scan_id, token in sorted(claims):
        row = connection.execute(
            select(Scan.exclusive, Scan.lost_leases_exclusive)
            .where(*_still_claimed(token, [scan_id]))
            .with_for_update()
        ).one_or_none()
        if row is None:
            continue
        lost_leases_exclusive = row.lost_leases_exclusive + int(row.exclusive)
        failed = lost_leases_exclusive >= max_attempts
        given_up = (
            f"Its worker died or gave up {lost_leases_exclusive} times while processing this scan alone. "
            f"Last time: {why}."
        )
        delay = min(delay_per_loss * lost_leases_exclusive, MAX_DELAY) if row.exclusive else timedelta()
        change: dict[str, Any] = (
            _final_values(State.FAILED, at, detail=given_up) if failed else _queued_values(at + delay)
        )
        connection.execute(
            update(Scan)
            .where(Scan.id == scan_id)
            .values(**change, lost_leases=Scan.lost_leases + 1, lost_leases_exclusive=lost_leases_exclusive)
        )
        to = State.FAILED if failed else State.QUEUED
        _record(connection, [scan_id], State.RUNNING, to, by, at, given_up if failed else why)
        moved += 1
    return moved


def release_all(connection: Connection, max_attempts: int, by: str) -> None:
    """Move running -> queued or failed, for every claim, and mark all queued scans as unannounced.

    For the start of a process that has the database for itself: no process that claimed or announced anything exists
    any more.
    """
    claims = connection.execute(select(Scan.id, Scan.claim_token).where(in_state(State.RUNNING))).all()
    expire_claims(connection, [(scan_id, token or "") for scan_id, token in claims], max_attempts, by)
    connection.execute(update(Scan).where(in_state(State.QUEUED)).values(announced_at=None))


def requeue(connection: Connection, where: Condition, by: str) -> list[int]:
    """Move failed or rejected -> queued and reset lost leases, times and header. Returns the scans that moved."""
    at = utc_now()
    rows = connection.execute(
        select(Scan.id, Scan.state)
        .where(where, in_state(*REQUEUEABLE), Scan.superseded_by.is_(None), ~_erased())
        .order_by(Scan.id)
        .with_for_update()
    ).all()
    for state in REQUEUEABLE:
        ids = [row.id for row in rows if row.state == state]
        if ids:
            connection.execute(
                update(Scan)
                .where(Scan.id.in_(ids), in_state(state))
                # the header, too: the file may have another content when it is read again
                .values(
                    **_queued_values(at),
                    lost_leases=0,
                    lost_leases_exclusive=0,
                    finished_at=None,
                    **dict.fromkeys(HEADER_COLUMNS),
                )
            )
            _record(connection, ids, state, State.QUEUED, by, at, "requeued")
    return [row.id for row in rows]


def requeue_matching(
    connection: Connection, by: str, *, scan_ids: Sequence[int] = (), reason: Reason | None = None, failed: bool = False
) -> list[int]:
    """Apply `requeue` to these scans, to all rejected for this reason and, if asked for, to all failed ones."""
    conditions: list[Condition] = [false()]
    if scan_ids:
        conditions.append(Scan.id.in_(scan_ids))
    if reason:
        conditions.append(Scan.reason == reason)
    if failed:
        conditions.append(in_state(State.FAILED))
    return requeue(connection, or_(*conditions), by)


def erase_scans(connection: Connection, ids: Sequence[int], by: str) -> list[int]:
    """Move any state but running -> rejected, and clear all data but what counts and identifies the file.

    That is its inbox, the hash of its path, its size and time. Returns the scans that moved; the others are running or
    were erased before.
    """
    at = utc_now()
    rows = connection.execute(
        select(Scan.id, Scan.state)
        .where(Scan.id.in_(ids), ~in_state(State.RUNNING), ~_erased())
        .order_by(Scan.id)
        .with_for_update()
    ).all()
    moved = [row.id for row in rows]
    connection.execute(update(Scan).where(Scan.id.in_(moved)).values(_final_values(State.REJECTED, at, **TOMBSTONE)))
    for state in State:
        of_state = [row.id for row in rows if row.state == state]
        if of_state:
            _record(connection, of_state, state, State.REJECTED, by, at, Reason.ERASED)
    return moved


def _erased() -> Condition:
    return func.coalesce(Scan.reason, "") == Reason.ERASED


def _still_claimed(token: str, ids: Sequence[int]) -> tuple[Condition, ...]:
    return Scan.id.in_(ids), in_state(State.RUNNING), Scan.claim_token == token


def _queued_values(not_before: datetime) -> dict[str, Any]:
    """Return the column values of a queued, unannounced, unclaimed row."""
    return {
        "state": State.QUEUED,
        "not_before": not_before,
        "announced_at": None,
        "claim_token": None,
        "claimed_by": None,
        "leased_until": None,
        "exclusive": False,
        "reason": None,
        "detail": None,
    }


def _final_values(state: State, at: datetime, **values: Any) -> dict[str, Any]:
    return {"state": state, "finished_at": at, "claim_token": None, "leased_until": None, **values}


def _classify(connection: Connection, outcomes: list[Classified], by: str, at: datetime) -> list[Classified]:
    """Move running -> classified, or duplicate where another scan owns the content, whichever worker read it.

    The first scan with a content owns it. Returns the outcomes of the classified scans.
    """
    if not outcomes:
        return []
    owners = duplicates.content_owners(connection, outcomes)
    copies = [outcome for outcome in outcomes if owners[outcome.sha256] != outcome.scan_id]
    _duplicate(connection, copies, owners, by, at)
    originals = [outcome for outcome in outcomes if owners[outcome.sha256] == outcome.scan_id]
    if originals:
        headers = any(outcome.header for outcome in originals)
        parameter_rows = [
            {**vars(one), **one.worklist_entry._asdict(), **header_values(one.header), "header": None}
            for one in originals
        ]
        parameters = rows_parameter(parameter_rows) | {"at": at}
        connection.execute(statements.mark_classified(dialect_name(connection), headers), parameters)
        connection.execute(statements.retire_predictions(dialect_name(connection)), parameters)
        connection.execute(statements.upsert_predictions(dialect_name(connection)), parameters)
        _record(connection, [outcome.scan_id for outcome in originals], State.RUNNING, State.CLASSIFIED, by, at)
    return originals


def _duplicate(connection: Connection, copies: list[Classified], owners: dict[str, int], by: str, at: datetime) -> None:
    if not copies:
        return
    originals = {owners[copy.sha256] for copy in copies}
    superseding.lock_scans(connection, originals)
    for copy in copies:
        original = owners[copy.sha256]
        values = _final_values(
            State.DUPLICATE, at, sha256=copy.sha256, duplicate_of=original, **header_values(copy.header)
        )
        connection.execute(update(Scan).where(Scan.id == copy.scan_id).values(**values))
        _record(connection, [copy.scan_id], State.RUNNING, State.DUPLICATE, by, at, f"same image as scan {original}")
    superseding.update_current_duplicates(connection, originals)


def _reject(connection: Connection, outcome: Rejected, by: str, at: datetime) -> None:
    values = _final_values(State.REJECTED, at, reason=outcome.reason, detail=outcome.sentence, sha256=outcome.sha256)
    values |= header_values(outcome.header)
    connection.execute(update(Scan).where(Scan.id == outcome.scan_id).values(**values))
    _record(connection, [outcome.scan_id], State.RUNNING, State.REJECTED, by, at, outcome.reason)


def _defer(connection: Connection, outcome: Deferred, by: str, at: datetime) -> None:
    values = _queued_values(min(outcome.not_before, at + MAX_DELAY))
    if outcome.size is not None and outcome.mtime_ns is not None:
        other = _row_of_content(connection, outcome.scan_id, outcome.size, outcome.mtime_ns)
        if other is not None:
            sentence = "Other content is at this path; it has its own scan."
            _reject(connection, Rejected(outcome.scan_id, Reason.SUPERSEDED, sentence), by, at)
            reinstate(connection, other, [outcome.scan_id])
            # otherwise it would never be processed
            requeue(connection, and_(Scan.id == other, Scan.reason.in_(REJECTED_UNREAD)), by)
            return
        values |= {"size": outcome.size, "mtime_ns": outcome.mtime_ns, "changed_at": at}
    connection.execute(update(Scan).where(Scan.id == outcome.scan_id).values(**values))
    _record(connection, [outcome.scan_id], State.RUNNING, State.QUEUED, by, at, outcome.detail)


def _row_of_content(connection: Connection, scan_id: int, size: int, mtime_ns: int) -> int | None:
    """Return another scan of the same path that has this very content, or is newer and current."""
    here = select(Scan.inbox, Scan.path_sha256).where(Scan.id == scan_id).subquery()
    same = and_(Scan.size == size, Scan.mtime_ns == mtime_ns)
    return connection.scalar(
        select(Scan.id)
        .join(here, and_(Scan.inbox == here.c.inbox, Scan.path_sha256 == here.c.path_sha256))
        .where(Scan.id != scan_id, same | ((Scan.id > scan_id) & Scan.superseded_by.is_(None)))
        .order_by(same.desc(), Scan.id.desc())
        .limit(1)
    )


def _record(
    connection: Connection,
    ids: Sequence[int],
    before: State | None,
    after: State,
    by: str,
    at: datetime,
    detail: str | None = None,
) -> None:
    """Insert one event for each of these scans."""
    values = {"before": before, "after": after, "at": at, "by": by, "detail": detail}
    connection.execute(statements.insert_events(dialect_name(connection)), _ids(ids) | values)


def _ids(ids: Sequence[int]) -> dict[str, str]:
    return rows_parameter([{"id": id_} for id_ in ids])
