"""The ledger: every transition of a scan, and nothing else changes a state.

Each function runs inside a transaction of its caller (`Database.write`), moves rows by compare-and-set (a row that is
no longer in the state, or no longer bears the claim, is somebody else's and is left alone), and leaves one event row
for each move. The states and the ways between them are drawn in `db.states`.
"""

import secrets
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select, update

from db import contents, outbox, statements, succession
from db.dialect import name, plan_by_index, rows
from db.models import Scan
from db.outcomes import (
    HEADER_COLUMNS,
    Claim,
    ClaimedScan,
    Classified,
    Deferred,
    Outcome,
    Rejected,
    header_columns,
)
from db.seen import SeenFile
from db.statements import in_state
from db.states import REQUEUEABLE, UNREAD, Reason, State

Condition = ColumnElement[bool]

# No scan is put off by more: a time to wait for that is further away was written before a clock was set back.
LONGEST_DELAY: Final = timedelta(minutes=5)
# How long a scan lets others go first after its worker died over it alone, once and more often: workers are also killed
# for no fault of their films, and whatever they begin with must not be the same film each time.
RESTS: Final = timedelta(seconds=30), timedelta(minutes=10)
# What is left of a film that was erased
TOMBSTONE: Final[dict[str, Any]] = {
    "path": "",
    "path_bytes": b"",
    "reason": Reason.ERASED,
    "detail": "Everything that was known of this film has been erased.",
    "worklist_rank": None,
    "blind": False,
    "sampled_share": None,
    **dict.fromkeys(("sha256", "probability", "flagged", "caution", "model_version", "threshold")),
    **dict.fromkeys(("duplicate_of", "carried_by", "verdict", "reviewer", "reviewed_at")),
    **dict.fromkeys(HEADER_COLUMNS),
}


def now() -> datetime:
    return datetime.now(UTC)


def register(connection: Connection, files: Sequence[SeenFile], by: str) -> dict[int, SeenFile]:
    """(new) -> queued, for files whose content has no row yet. Returns {scan id: file}; what another watcher registered
    in the same moment is not in it. An older finished scan of the same path is marked as superseded.

    The rows are written as announced (`rung_at`), which saves an update of every row once they are; where the message
    then cannot be sent, `unring` says so, and where the process dies in between, the sweep finds them after a lease.
    """
    at = now()
    by_key = {(file.inbox, file.path_sha256): file for file in files}
    ordered = sorted(by_key.values(), key=lambda file: (file.inbox, file.path))  # so that two watchers never deadlock
    values = [file.row() for file in ordered]
    parameters = rows(values) | {"at": at}
    inserted = connection.execute(statements.enter(name(connection)), parameters).all() if values else []
    created = {row.id: by_key[row.inbox, row.path_sha256] for row in inserted}
    if created:
        _record(connection, list(created), None, State.QUEUED, by, at)
    return created


def supersede(connection: Connection, older: dict[int, int]) -> None:
    """Finished scans ({scan: its successor}) whose path has newer content now keep their state, and point at it."""
    succession.succeed(connection, older)


def restore(connection: Connection, scan_id: int, successors: Sequence[int]) -> None:
    """The content of a superseded scan is back at its path: it is the current scan again, and supersedes the others."""
    succession.succeed(connection, {scan_id: None, **dict.fromkeys(successors, scan_id)})


def refresh(connection: Connection, scan_id: int, file: SeenFile) -> bool:
    """A scan that still waits follows its file, which has changed. False where it no longer waits."""
    at = now()
    moved = connection.execute(
        update(Scan)
        .where(Scan.id == scan_id, in_state(State.QUEUED))
        .values(size=file.size, mtime_ns=file.mtime_ns, changed_at=at, not_before=at, rung_at=at)
    )
    return bool(moved.rowcount)


def wake(connection: Connection, inbox: str) -> None:
    """Waiting scans of an inbox that is there again are due now, whatever they were put off to."""
    at = now()
    connection.execute(
        update(Scan).where(in_state(State.QUEUED), Scan.inbox == inbox, Scan.not_before > at).values(not_before=at)
    )


def settled(connection: Connection, scan_id: int) -> None:
    """The file of a waiting scan is known to be complete: if it cannot be read, nobody waits for the rest of it."""
    long_ago = now() - timedelta(days=1)
    connection.execute(update(Scan).where(Scan.id == scan_id, in_state(State.QUEUED)).values(changed_at=long_ago))


def unring(connection: Connection, ids: Sequence[int]) -> None:
    """These waiting scans could not be announced; the sweep does it."""
    connection.execute(update(Scan).where(Scan.id.in_(ids), in_state(State.QUEUED)).values(rung_at=None))


def ring(connection: Connection, where: Condition, limit: int) -> list[int]:
    """Mark waiting scans that are due, and that `where` picks, as announced, and return them, most urgent first."""
    at = now()
    due = or_(Scan.not_before <= at, Scan.not_before > at + LONGEST_DELAY)
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
        connection.execute(update(Scan).where(Scan.id.in_(ids)).values(rung_at=at))
    return ids


def claim(
    connection: Connection, count: int, by: str, lease: timedelta, patience: timedelta | None = None
) -> Claim | None:
    """queued -> running: the most urgent `count` scans that are announced, or a single suspect where it is that.

    Suspects that rest are claimed where nothing else waits.

    `patience`: half of the claim goes to scans that have waited for longer, the oldest first, whatever their priority.
    """
    plan_by_index(connection)
    at = now()
    once, often = (at - rest for rest in RESTS)
    moments = {"at": at, "once": once, "often": often, "latest": at + LONGEST_DELAY}
    for resting in (False, True):
        found = _most_urgent(connection, count, moments, patience, resting)
        if found:
            break
    else:
        return None
    scans = tuple(ClaimedScan(*row) for row in found)
    scans = scans[:1] if scans[0].deaths else tuple(scan for scan in scans if not scan.deaths)
    token = secrets.token_hex(16)
    ids = [scan.id for scan in scans]
    values = {"token": token, "by": by, "until": at + lease}
    connection.execute(statements.take(name(connection)), _ids(ids) | values)
    _record(connection, ids, State.QUEUED, State.RUNNING, by, at)
    return Claim(token, scans)


def _most_urgent(
    connection: Connection, count: int, moments: dict[str, datetime], patience: timedelta | None, resting: bool
) -> list[Any]:
    """No more than `count` are locked: another worker that found the rest locked would spend its licence on nothing."""
    # what cannot be halved, an odd one or a suspect's turn, goes to either side by lot
    lot = secrets.randbelow(2)
    old: list[Any] = []
    if patience is not None and (share := (count + lot) // 2):
        values: dict[str, Any] = {"count": share, "received_by": moments["at"] - patience}
        old = list(connection.execute(statements.overdue(resting), moments | values))
    if not old:
        return list(connection.execute(statements.waiting(resting), moments | {"count": count}))
    values = {"count": count - len(old)} | _ids([row.id for row in old])
    urgent = list(connection.execute(statements.waiting_besides(name(connection), resting), moments | values))
    return old + urgent if lot else urgent + old


def renew(connection: Connection, claim: Claim, lease: timedelta, alone: bool = False) -> bool:
    """Running scans have made progress: their lease starts anew. `alone`: nothing else is in this process now. False
    where they were taken back meanwhile."""
    moved = connection.execute(
        update(Scan)
        .where(*_held(claim.token, [scan.id for scan in claim.scans]))
        .values(leased_until=now() + lease, alone=alone)
    )
    return bool(moved.rowcount)


def finish(
    connection: Connection, token: str, outcomes: Sequence[Outcome], by: str, destinations: Sequence[str] = ()
) -> None:
    """running -> classified, duplicate, rejected or queued, for each scan that still bears the claim's token.

    `destinations` are to be told of those that are flagged (`Settings.destinations`).
    """
    plan_by_index(connection)
    at = now()
    parameters = _ids([outcome.scan_id for outcome in outcomes]) | {"token": token}
    held = set(connection.scalars(statements.hold(name(connection)), parameters))
    mine = sorted((outcome for outcome in outcomes if outcome.scan_id in held), key=lambda outcome: outcome.scan_id)
    firsts = _classify(connection, [outcome for outcome in mine if isinstance(outcome, Classified)], by, at)
    if destinations:
        outbox.put(connection, firsts, destinations, at)
    for outcome in mine:
        if isinstance(outcome, Rejected):
            _reject(connection, outcome, by, at)
        elif isinstance(outcome, Deferred):
            _defer(connection, outcome, by, at)


def expire(
    connection: Connection,
    claims: Iterable[tuple[int, str]],
    max_attempts: int,
    by: str,
    why: str = "the lease ran out",
    pause: timedelta = timedelta(),
) -> int:
    """running -> queued or failed: (scan, token) pairs whose worker has not been heard of for a lease, or gave them up.

    A scan that was alone in its process then counts it as its own; after `max_attempts` times it is failed. Others go
    back to the queue as suspects, which are read alone.

    Args:
        why: for the event, and for people where the scan is failed.
        pause: until a scan that was alone is due again, as often as this has happened to it.
    """
    at, moved = now(), 0
    for scan_id, token in sorted(claims):
        row = connection.execute(
            select(Scan.alone, Scan.deaths_alone).where(*_held(token, [scan_id])).with_for_update()
        ).one_or_none()
        if row is None:
            continue
        deaths_alone = row.deaths_alone + int(row.alone)
        failed = deaths_alone >= max_attempts
        given_up = f"Its worker died or gave up {deaths_alone} times while it read this film alone; at last, {why}."
        delay = min(pause * deaths_alone, LONGEST_DELAY) if row.alone else timedelta()
        change: dict[str, Any] = _final(State.FAILED, at, detail=given_up) if failed else _waiting(at + delay)
        connection.execute(
            update(Scan).where(Scan.id == scan_id).values(**change, deaths=Scan.deaths + 1, deaths_alone=deaths_alone)
        )
        to = State.FAILED if failed else State.QUEUED
        _record(connection, [scan_id], State.RUNNING, to, by, at, given_up if failed else why)
        moved += 1
    return moved


def requeue(connection: Connection, where: Condition, by: str) -> list[int]:
    """failed or rejected -> queued, with a clean slate. Returns the scans that moved."""
    at = now()
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
                # the header, too: by the time it is read, another film may stand there
                .values(**_waiting(at), deaths=0, deaths_alone=0, finished_at=None, **dict.fromkeys(HEADER_COLUMNS))
            )
            _record(connection, ids, state, State.QUEUED, by, at, "requeued")
    return [row.id for row in rows]


def erase(connection: Connection, ids: Sequence[int], by: str) -> list[int]:
    """Any state but running -> rejected, with nothing left of the film but what it is counted and recognised by: its
    inbox, the hash of its path, its size and time. Returns those that moved; the others are being read, or are
    tombstones already."""
    at = now()
    rows = connection.execute(
        select(Scan.id, Scan.state)
        .where(Scan.id.in_(ids), ~in_state(State.RUNNING), ~_erased())
        .order_by(Scan.id)
        .with_for_update()
    ).all()
    moved = [row.id for row in rows]
    connection.execute(update(Scan).where(Scan.id.in_(moved)).values(_final(State.REJECTED, at, **TOMBSTONE)))
    for state in State:
        of_state = [row.id for row in rows if row.state == state]
        if of_state:
            _record(connection, of_state, state, State.REJECTED, by, at, Reason.ERASED)
    return moved


def _erased() -> Condition:
    return func.coalesce(Scan.reason, "") == Reason.ERASED


def _held(token: str, ids: Sequence[int]) -> tuple[Condition, ...]:
    return Scan.id.in_(ids), in_state(State.RUNNING), Scan.claim_token == token


def _waiting(not_before: datetime) -> dict[str, Any]:
    """Column values of a row that waits, unannounced, in nobody's hands."""
    return {
        "state": State.QUEUED,
        "not_before": not_before,
        "rung_at": None,
        "claim_token": None,
        "claimed_by": None,
        "leased_until": None,
        "alone": False,
        "reason": None,
        "detail": None,
    }


def _final(state: State, at: datetime, **values: Any) -> dict[str, Any]:
    return {"state": state, "finished_at": at, "claim_token": None, "leased_until": None, **values}


def _classify(connection: Connection, outcomes: list[Classified], by: str, at: datetime) -> list[Classified]:
    """The first scan to bring some content owns it; a twin becomes its duplicate, whichever worker read it.

    Returns the former.
    """
    if not outcomes:
        return []
    owners = contents.owners(connection, outcomes)
    twins = [outcome for outcome in outcomes if owners[outcome.sha256] != outcome.scan_id]
    _duplicate(connection, twins, owners, by, at)
    firsts = [outcome for outcome in outcomes if owners[outcome.sha256] == outcome.scan_id]
    if firsts:
        headers = any(outcome.header for outcome in firsts)
        given = [{**vars(one), **one.entry._asdict(), **header_columns(one.header), "header": None} for one in firsts]
        parameters = rows(given) | {"at": at}
        connection.execute(statements.classify(name(connection), headers), parameters)
        connection.execute(statements.retire(name(connection)), parameters)
        connection.execute(statements.predict(name(connection)), parameters)
        _record(connection, [outcome.scan_id for outcome in firsts], State.RUNNING, State.CLASSIFIED, by, at)
    return firsts


def _duplicate(connection: Connection, twins: list[Classified], owners: dict[str, int], by: str, at: datetime) -> None:
    if not twins:
        return
    originals = {owners[twin.sha256] for twin in twins}
    succession.lock(connection, originals)
    for twin in twins:
        original = owners[twin.sha256]
        values = _final(State.DUPLICATE, at, sha256=twin.sha256, duplicate_of=original, **header_columns(twin.header))
        connection.execute(update(Scan).where(Scan.id == twin.scan_id).values(**values))
        _record(connection, [twin.scan_id], State.RUNNING, State.DUPLICATE, by, at, f"same film as scan {original}")
    succession.carry(connection, originals)


def _reject(connection: Connection, outcome: Rejected, by: str, at: datetime) -> None:
    values = _final(State.REJECTED, at, reason=outcome.reason, detail=outcome.sentence, sha256=outcome.sha256)
    values |= header_columns(outcome.header)
    connection.execute(update(Scan).where(Scan.id == outcome.scan_id).values(**values))
    _record(connection, [outcome.scan_id], State.RUNNING, State.REJECTED, by, at, outcome.reason)


def _defer(connection: Connection, outcome: Deferred, by: str, at: datetime) -> None:
    values = _waiting(min(outcome.not_before, at + LONGEST_DELAY))
    if outcome.size is not None and outcome.mtime_ns is not None:
        other = _row_of_content(connection, outcome.scan_id, outcome.size, outcome.mtime_ns)
        if other is not None:
            newer = "Other content stands at this path; it has a scan of its own."
            _reject(connection, Rejected(outcome.scan_id, Reason.SUPERSEDED, newer), by, at)
            restore(connection, other, [outcome.scan_id])
            requeue(connection, and_(Scan.id == other, Scan.reason.in_(UNREAD)), by)  # nobody would look at it again
            return
        values |= {"size": outcome.size, "mtime_ns": outcome.mtime_ns, "changed_at": at}
    connection.execute(update(Scan).where(Scan.id == outcome.scan_id).values(**values))
    _record(connection, [outcome.scan_id], State.RUNNING, State.QUEUED, by, at, outcome.detail)


def _row_of_content(connection: Connection, scan_id: int, size: int, mtime_ns: int) -> int | None:
    """Another scan of the same path that stands for this very content, or is newer and current."""
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
    """One event row for each of these scans."""
    values = {"before": before, "after": after, "at": at, "by": by, "detail": detail}
    connection.execute(statements.record(name(connection)), _ids(ids) | values)


def _ids(ids: Sequence[int]) -> dict[str, str]:
    return rows([{"id": id_} for id_ in ids])
