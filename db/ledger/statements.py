"""The ledger's statements over a whole batch. Each is built once a dialect: building takes longer than running it."""

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
    """The state as a literal in the SQL, not as a parameter: else the partial indexes on it cannot be used."""
    names: list[ColumnElement[str]] = [literal_column(f"'{state}'") for state in states]
    return Scan.state == names[0] if len(names) == 1 else Scan.state.in_(names)


@cache
def insert_queued(dialect: str) -> Any:
    """(new) -> queued: given files, as `FileVersion.row` has them; at. Returns id, inbox and path_sha256 of those that had
    no row."""
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
    # WHERE true: without it SQLite takes the ON of ON CONFLICT for a join's
    insertion = insert_or_ignore(dialect, SCANS).from_select(list(values), select(*values.values()).where(true()))
    return insertion.returning(SCANS.c.id, SCANS.c.inbox, SCANS.c.path_sha256)


@cache
def most_urgent(include_cooling: bool = False) -> Any:
    """The most urgent scans that are announced, locked: count; once, often, latest. `include_cooling`: also those that rest.

    Who announces a scan has found it due, and no clock is asked again here. One that is due and not announced yet is
    left alone: there are as many licences out as scans announced, and one spent on it would be missing to another,
    which would be forgotten for a lease.
    """
    return _select_for_claim(in_state(State.QUEUED), *_announced(include_cooling), order=(Scan.priority, Scan.id))


@cache
def most_urgent_except(dialect: str, include_cooling: bool = False) -> Any:
    """As `most_urgent`, without the given ids."""
    others = Scan.id.not_in(_ids(dialect))
    return _select_for_claim(
        in_state(State.QUEUED), *_announced(include_cooling), others, order=(Scan.priority, Scan.id)
    )


@cache
def overdue(include_cooling: bool = False) -> Any:
    """As `most_urgent`, of the scans that were received by some moment, the oldest first: received_by besides.

    The index on the time is of all that is queued or running. The state itself is compared in a form that no index has,
    or the one on priorities would be read from end to end.
    """
    queued = func.coalesce(Scan.state, "") == State.QUEUED
    old = Scan.received_at <= bindparam("received_by", type_=UtcDateTime)
    return _select_for_claim(in_state(*WAITING), queued, old, *_announced(include_cooling), order=(Scan.received_at,))


def _select_for_claim(*which: ColumnElement[bool], order: Sequence[Any]) -> Any:
    """What a claim needs to know of the first `count` of these scans, locked."""
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
    """Scans that need not let others go first, as those must whose worker died over them alone: once, since `cooled_once`, or
    several times, the last since `cooled_again`. A time after `latest_plausible` was written before a clock was set back."""
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
    """Which (n) of the given files have no current row of this content that stands: inbox. Those whose row says that
    they vanished are among them.

    The inbox is compared in a form that no index has: of a table that was filled and not analysed yet, PostgreSQL would
    else read all rows of the inbox for a handful of paths.
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
    """queued -> running: given ids; token, by, until.

    The state is compared in a form that no index has: PostgreSQL would else read all that waits for a handful of ids.
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
    """Which of the given ids still bear the claim, locked: token."""
    held = in_state(State.RUNNING), Scan.claim_token == _token()
    return select(Scan.id).where(Scan.id.in_(_ids(dialect)), *held).order_by(Scan.id).with_for_update()


@cache
def claim_contents(dialect: str) -> Any:
    """Given (sha256, scan_id): the scan becomes the owner of content that nobody owns. Returns those that did."""
    rows = json_rows(dialect, sha256=String, scan_id=BigInteger).c
    # WHERE true: without it SQLite takes the ON of ON CONFLICT for a join's
    chosen = select(rows.sha256, rows.scan_id).where(true())
    insertion = insert_or_ignore(dialect, CONTENTS).from_select(["sha256", "scan_id"], chosen)
    return insertion.returning(CONTENTS.c.sha256, CONTENTS.c.scan_id)


@cache
def mark_classified(dialect: str, headers: bool) -> Any:
    """running -> classified: given outcomes, as `db.ledger.outcomes.Classified`, their headers' columns with them; at.

    `headers`: whether any has one; films that have none do not pay for nine columns more.
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
    # what was handed in at the desk was handed in for its result: it is neither hidden nor a draw from all that came
    handed_in = Scan.inbox == UPLOADS
    values["hidden_until_verdict"] = case((handed_in, false()), else_=rows.hidden_until_verdict)
    values["sampled_share"] = case((handed_in, null()), else_=rows.sampled_share)
    values["worklist_rank"] = case((and_(handed_in, not_(rows.flagged)), null()), else_=rows.worklist_rank)
    return update(Scan).where(Scan.id == rows.scan_id).values(values)


@cache
def retire_predictions(dialect: str) -> Any:
    """The current predictions of the given outcomes' scans, of an earlier life, are so no longer."""
    scans = select(_outcomes(dialect).c.scan_id)
    return update(Prediction).where(Prediction.scan_id.in_(scans), Prediction.current).values(current=false())


@cache
def upsert_predictions(dialect: str) -> Any:
    """A prediction for each of the given outcomes: at. One that the model made in an earlier life is made anew."""
    rows = _outcomes(dialect).c
    told = ["probability", "threshold", "flagged", "gate_score", "brightness"]
    values = select(*(rows[name] for name in ("scan_id", "model_version", *told)), true(), _at()).where(true())
    columns = ["scan_id", "model_version", *told, "current", "made_at"]
    return upsert(dialect, PREDICTIONS, ["scan_id", "model_version"], columns, values)


@cache
def insert_events(dialect: str) -> Any:
    """An event for each of the given ids: before, after, at, by, detail."""
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
