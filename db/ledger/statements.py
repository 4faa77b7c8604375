"""The ledger's statements on whole batches. Each is built once per dialect: building takes longer than running."""

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Double,
    FromClause,
    Integer,
    SmallInteger,
    String,
    and_,
    bindparam,
    case,
    false,
    func,
    insert,
    literal,
    literal_column,
    not_,
    null,
    or_,
    select,
    true,
    update,
)

from db.dialect import insert_or_ignore, json_rows, unhex, upsert
from db.ledger.outcomes import HEADER_COLUMNS
from db.models import Content, Prediction, Scan, ScanEvent, UtcDateTime
from db.states import WAITING, Reason, State
from pneumowatch.inboxes import UPLOADS

SCANS: Final[Any] = Scan.__table__
CONTENTS: Final[Any] = Content.__table__
PREDICTIONS: Final[Any] = Prediction.__table__


def in_state(*states: State) -> ColumnElement[bool]:
    """Compare the state with literals in the SQL; with parameters, the partial indexes on it cannot be used."""
    names: list[ColumnElement[str]] = [literal_column(f"'{state}'") for state in states]
    return Scan.state == names[0] if len(names) == 1 else Scan.state.in_(names)


@cache
def insert_queued(dialect: str) -> Any:
    """Build (new) -> queued. Parameters: files as from `FileVersion.row`; at.

    Returns id, inbox and path_sha256 of those that had no row.
    """
    rows = json_rows(
        dialect,
        inbox=String,
        path_sha256=String,
        path_bytes=String,
        path=String,
        size=BigInteger,
        mtime_ns=BigInteger,
        priority=SmallInteger,
    ).c
    values: dict[str, Any] = {column.name: column for column in rows}
    values |= {name: unhex(dialect, values[name]) for name in ("path_sha256", "path_bytes")}
    values |= {
        "state": literal_column(f"'{State.QUEUED}'"),
        "lost_leases": literal(0),
        "lost_leases_exclusive": literal(0),
    }
    values |= {
        "exclusive": false(),
        **{name: _at() for name in ("received_at", "changed_at", "not_before", "announced_at")},
    }
    # WHERE true: without it SQLite parses the ON of ON CONFLICT as that of a join
    insertion = insert_or_ignore(dialect, SCANS).from_select(list(values), select(*values.values()).where(true()))
    return insertion.returning(SCANS.c.id, SCANS.c.inbox, SCANS.c.path_sha256)


@cache
def most_urgent(include_cooling: bool = False) -> Any:
    """Select and lock the most urgent announced scans. Parameters: count, cooled_once, cooled_again, latest_plausible.

    `include_cooling`: also scans that cool down.

    A scan was due when it was announced, so no clock is checked again here. A scan that is due but not yet announced is
    left alone: there are as many permits as announced scans. A permit spent on it would be missing for an announced
    scan, which would be forgotten for a lease.
    """
    return _select_for_claim(in_state(State.QUEUED), *_announced(include_cooling), order=(Scan.priority, Scan.id))


@cache
def most_urgent_except(dialect: str, include_cooling: bool = False) -> Any:
    """Build `most_urgent` without the given ids."""
    others = Scan.id.not_in(_ids(dialect))
    return _select_for_claim(
        in_state(State.QUEUED), *_announced(include_cooling), others, order=(Scan.priority, Scan.id)
    )


@cache
def overdue(include_cooling: bool = False) -> Any:
    """Build `most_urgent` for the scans received by some moment, the oldest first. Further parameter: received_by.

    The index on the time covers all that is queued or running. The state itself is compared in a form that no index
    has; otherwise the index on priorities would be read from end to end.
    """
    queued = func.coalesce(Scan.state, "") == State.QUEUED
    old = Scan.received_at <= bindparam("received_by", type_=UtcDateTime)
    return _select_for_claim(in_state(*WAITING), queued, old, *_announced(include_cooling), order=(Scan.received_at,))


def _select_for_claim(*which: ColumnElement[bool], order: Sequence[Any]) -> Any:
    """Select and lock the columns of a `ClaimedScan`, of the first `count` of these scans."""
    return (
        select(Scan.id, Scan.inbox, Scan.path_bytes, Scan.size, Scan.mtime_ns, Scan.changed_at, Scan.lost_leases)
        .where(*which)
        .order_by(*order)
        .limit(bindparam("count", type_=Integer))
        .with_for_update(skip_locked=True)
    )


def _announced(include_cooling: bool) -> list[ColumnElement[bool]]:
    announced = Scan.announced_at.is_not(None)
    return [announced] if include_cooling else [announced, _not_cooling_down()]


def _not_cooling_down() -> ColumnElement[bool]:
    """Match scans that do not cool down after their worker died while processing them alone.

    After one death they cool down until `not_before` <= `cooled_once`, after several until `not_before` <=
    `cooled_again`. A `not_before` after `latest_plausible` was written before a clock was set back.
    """
    cooled_once, cooled_again, latest_plausible = (
        bindparam(name, type_=UtcDateTime) for name in ("cooled_once", "cooled_again", "latest_plausible")
    )
    return or_(
        Scan.lost_leases_exclusive == 0,
        Scan.not_before <= cooled_again,
        and_(Scan.lost_leases_exclusive == 1, Scan.not_before <= cooled_once),
        Scan.not_before > latest_plausible,
    )


@cache
def unmatched(dialect: str) -> Any:
    """Select the numbers (n) of the given files without a current row of this content. Parameter: inbox.

    A file whose row says that it vanished is among them.

    The inbox is compared in a form that no index has: on a table that was filled but not analysed yet, PostgreSQL would
    otherwise read all rows of the inbox for a handful of paths.
    """
    rows = json_rows(dialect, n=Integer, path_sha256=String, size=BigInteger, mtime_ns=BigInteger).c
    match = select(literal(1)).where(
        SCANS.c.path_sha256 == unhex(dialect, rows.path_sha256),
        func.coalesce(SCANS.c.inbox, "") == bindparam("inbox", type_=String),
        SCANS.c.size == rows.size,
        SCANS.c.mtime_ns == rows.mtime_ns,
        SCANS.c.superseded_by.is_(None),
        func.coalesce(SCANS.c.reason, "") != Reason.VANISHED,
    )
    return select(rows.n).where(~match.exists())


@cache
def mark_running(dialect: str) -> Any:
    """Build queued -> running for the given ids. Parameters: token, by, until.

    The state is compared in a form that no index has: PostgreSQL would otherwise read all waiting rows for a handful of
    ids.
    """
    still_queued = func.coalesce(Scan.state, "") == State.QUEUED
    values = {
        "state": State.RUNNING,
        "claim_token": _token(),
        "claimed_by": bindparam("by", type_=String),
        "leased_until": bindparam("until", type_=UtcDateTime),
        "exclusive": false(),
    }
    return update(Scan).where(Scan.id.in_(_ids(dialect)), still_queued).values(values)


@cache
def lock_claimed(dialect: str) -> Any:
    """Select and lock those of the given ids that are still claimed under the token. Parameter: token."""
    held = in_state(State.RUNNING), Scan.claim_token == _token()
    return select(Scan.id).where(Scan.id.in_(_ids(dialect)), *held).order_by(Scan.id).with_for_update()


@cache
def claim_contents(dialect: str) -> Any:
    """Make scans the owners of content that has none, from (sha256, scan_id). Returns the rows that were added."""
    rows = json_rows(dialect, sha256=String, scan_id=BigInteger).c
    # WHERE true: without it SQLite parses the ON of ON CONFLICT as that of a join
    chosen = select(rows.sha256, rows.scan_id).where(true())
    insertion = insert_or_ignore(dialect, CONTENTS).from_select(["sha256", "scan_id"], chosen)
    return insertion.returning(CONTENTS.c.sha256, CONTENTS.c.scan_id)


@cache
def mark_classified(dialect: str, headers: bool) -> Any:
    """Build running -> classified for outcomes. Parameter: at.

    The outcomes are given as `db.ledger.outcomes.Classified` with their headers' columns. `headers`: whether any of
    them has one; batches without headers save nine columns.
    """
    described: dict[str, type[Any]] = WORKLIST_COLUMNS | (HEADER_TYPES if headers else {})
    rows = _outcomes(dialect, **described).c
    result = ("sha256", "probability", "flagged", "threshold", "model_version", "caution", *described)
    values: dict[str, Any] = {
        "state": State.CLASSIFIED,
        "finished_at": _at(),
        "claim_token": null(),
        "leased_until": null(),
    }
    values |= {name: rows[name] for name in result}
    # an upload in the review app was made to see its result: it is neither hidden nor part of the sample
    uploaded = Scan.inbox == UPLOADS
    values["hidden_until_verdict"] = case((uploaded, false()), else_=rows.hidden_until_verdict)
    values["sampled_share"] = case((uploaded, null()), else_=rows.sampled_share)
    values["worklist_rank"] = case((and_(uploaded, not_(rows.flagged)), null()), else_=rows.worklist_rank)
    return update(Scan).where(Scan.id == rows.scan_id).values(values)


@cache
def retire_predictions(dialect: str) -> Any:
    """Mark earlier current predictions of these outcomes' scans, from before a requeue, as not current."""
    scans = select(_outcomes(dialect).c.scan_id)
    return update(Prediction).where(Prediction.scan_id.in_(scans), Prediction.current).values(current=false())


@cache
def upsert_predictions(dialect: str) -> Any:
    """Insert a prediction for each of the given outcomes. Parameter: at.

    An earlier prediction of the scan by the same model, from before a requeue, is overwritten.
    """
    rows = _outcomes(dialect).c
    measures = ["probability", "threshold", "flagged", "gate_score", "brightness"]
    values = select(*(rows[name] for name in ("scan_id", "model_version", *measures)), true(), _at()).where(true())
    columns = ["scan_id", "model_version", *measures, "current", "made_at"]
    return upsert(dialect, PREDICTIONS, ["scan_id", "model_version"], columns, values)


@cache
def insert_events(dialect: str) -> Any:
    """Insert an event for each of the given ids. Parameters: before, after, at, by, detail."""
    values = {
        "scan_id": json_rows(dialect, id=BigInteger).c.id,
        **{name: bindparam(parameter, type_=String) for name, parameter in EVENT_PARAMETERS.items()},
        "at": _at(),
    }
    return insert(ScanEvent).from_select(list(values), select(*values.values()))


EVENT_PARAMETERS: Final = {"from_state": "before", "to_state": "after", "by": "by", "detail": "detail"}


def _ids(dialect: str) -> Any:
    return select(json_rows(dialect, id=BigInteger).c.id)


WORKLIST_COLUMNS: Final[dict[str, type[Any]]] = {
    "worklist_rank": Double,
    "hidden_until_verdict": Boolean,
    "sampled_share": Double,
}
HEADER_TYPES: Final = dict.fromkeys(HEADER_COLUMNS, String) | {"age_years": Double}


def _outcomes(dialect: str, **others: type[Any]) -> FromClause:
    return json_rows(
        dialect,
        scan_id=BigInteger,
        sha256=String,
        probability=Double,
        flagged=Boolean,
        threshold=Double,
        model_version=String,
        caution=String,
        gate_score=Double,
        brightness=Double,
        **others,
    )


def _at() -> Any:
    return bindparam("at", type_=UtcDateTime)


def _token() -> Any:
    return bindparam("token", type_=String)
