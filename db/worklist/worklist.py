"""The lists that readers see: the worklist, one row per study, and all scans, the newest first.

The worklist contains what waits for a reader (`db.models.TO_READ`): first what has waited beyond the cap, the oldest of
it first, then the most probable. Pages follow a cursor, so each is as fast as the first, however long the list. The
cursor names the last row by its scan, never by its rank, which may be a hidden probability.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, exists, false, func, literal, or_, select, true, tuple_
from sqlalchemy.orm import aliased

from db.dialect import force_custom_plans
from db.models import Review, Scan, UtcDateTime
from db.states import State, Verdict
from pneumowatch.errors import PneumowatchError

Row = dict[str, Any]
Condition = ColumnElement[bool]

COUNT_LIMIT: Final = 10_000  # scans counted at most
EPOCH: Final = datetime.fromtimestamp(0, UTC)
NO_VERDICT: Final = "none"
ANY: Final = "any"
HIDDEN_FIELDS: Final = ("probability", "flagged")  # of a scan that is read blind

S: Final[Any] = aliased(Scan, name="s")
OTHER: Final[Any] = aliased(Scan, name="other")
ORIGINAL: Final[Any] = aliased(Scan, name="o")
CURRENT_DUPLICATE: Final[Any] = aliased(Scan, name="c")


class BadCursor(PneumowatchError):
    """The address of this page does not belong to this list; start at its first page."""


class Listing(StrEnum):
    TO_READ = "to_read"  # the worklist, in its order
    # flagged scans, reviewed or not, the most probable first; and those that may be flagged, as far as the reader knows
    FLAGGED = "flagged"
    ALL = "all"  # every scan, the newest first


@dataclass(frozen=True)
class Filters:
    """The conditions on listed scans; all that are given must hold.

    `since` (included) and `until` are of the arrival. `verdict`: one of `db.states.Verdict`, or `none`. `caution`: a
    caution, `any` or `none`. `at_least` and `at_most` are of the probability; while they are given, scans whose result
    is hidden from the reader are left out.
    """

    listing: Listing = Listing.TO_READ
    source: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    state: State | None = None
    verdict: Verdict | str | None = None
    caution: str | None = None
    at_least: float | None = None
    at_most: float | None = None

    @property
    def narrowed(self) -> bool:
        return replace(self, listing=Listing.TO_READ) != Filters()


class Section(StrEnum):
    """The sections of a list, in its order."""

    LATE = "l"  # of the worklist: scans that have waited beyond the cap
    RANKED = "r"  # of the worklist: the others
    FLAGGED = "f"  # all of the flagged list
    NEWEST = "n"  # all of the list of all scans


SECTIONS: Final = {
    Listing.TO_READ: (Section.LATE, Section.RANKED),
    Listing.FLAGGED: (Section.FLAGGED,),
    Listing.ALL: (Section.NEWEST,),
}


@dataclass(frozen=True)
class Cursor:
    """The last row of a page. `cutoff`: arrivals until then were late when the first page was made."""

    section: Section
    scan_id: int
    cutoff: datetime

    def __str__(self) -> str:
        return f"{self.section}{self.scan_id}-{round(self.cutoff.timestamp())}"

    @classmethod
    def parse(cls, written: str) -> "Cursor":
        """Parse a cursor. Raises BadCursor."""
        found = re.fullmatch(r"([lrfn])([0-9]{1,18})-([0-9]{1,11})", written)
        if found is None:
            raise BadCursor(str(BadCursor.__doc__))
        return cls(Section(found[1]), int(found[2]), datetime.fromtimestamp(int(found[3]), UTC))


@dataclass(frozen=True)
class Page:
    """Rows with the columns of `COLUMNS`. `next_cursor`: where the next page begins; None if there is none."""

    rows: list[Row]
    next_cursor: Cursor | None


class Count(NamedTuple):
    """A count. `more`: there are more than `number`."""

    number: int
    more: bool

    def __str__(self) -> str:
        return f"more than {self.number:,}" if self.more else f"{self.number:,}"


def fetch_page(
    connection: Connection,
    filters: Filters,
    cap: timedelta,
    reader: str | None,
    after: Cursor | None = None,
    limit: int = 50,
) -> Page:
    """Return a page of a list.

    Args:
        cap: how long a scan waits at most before it goes first; zero: for ever.
        reader: the reader's name; None: a user who does not read, and from whom nothing is hidden.
        after: the end of the page before; None: the first page.

    Raises BadCursor if `after` does not belong to this list.
    """
    force_custom_plans(connection)
    cutoff = after.cutoff if after else _cutoff(cap)
    boundary = _boundary(connection, after)
    if after and after.section not in SECTIONS[filters.listing]:
        raise BadCursor(str(BadCursor.__doc__))
    if filters.listing is Listing.TO_READ:
        found = _to_read(connection, filters, cutoff, after, boundary, limit + 1, reader)
    else:
        (section,) = SECTIONS[filters.listing]
        one = (_flagged_ids if section is Section.FLAGGED else _newest_ids)(filters, boundary, limit + 1, reader)
        found = [(section, scan_id) for scan_id in connection.scalars(one)]
    shown = found[:limit]
    following = Cursor(*shown[-1], cutoff) if len(found) > limit else None
    rows = rows_by_id(connection, [scan_id for _, scan_id in shown], reader)
    for row, (section, _) in zip(rows, shown, strict=True):
        row["late"] = section is Section.LATE
    return Page(rows, following)


def next_scan(
    connection: Connection,
    filters: Filters,
    cap: timedelta,
    passed: Sequence[int] = (),
    reader: str | None = None,
) -> int | None:
    """Return the scan to read next, in the worklist's order, without those that were `passed`.

    Returns None if none is left.
    """
    rows = fetch_page(connection, replace(filters, listing=Listing.TO_READ), cap, reader, limit=len(passed) + 1).rows
    return next((int(row["scan_id"]) for row in rows if row["scan_id"] not in passed), None)


def count_scans(connection: Connection, filters: Filters, reader: str | None, at_most: int = COUNT_LIMIT) -> Count:
    """Count the scans of the list, up to `at_most`."""
    force_custom_plans(connection)
    some = select(S.id).where(*_conditions(S, filters, reader)).limit(at_most + 1).subquery()
    number = connection.scalar(select(func.count()).select_from(some)) or 0
    return Count(min(number, at_most), number > at_most)


def count_late(connection: Connection, cap: timedelta) -> int:
    """Count the scans that have waited for a reader beyond the cap, up to COUNT_LIMIT + 1."""
    some = select(S.id).where(*_waits_for_reader(S), S.received_at <= _cutoff(cap)).limit(COUNT_LIMIT + 1).subquery()
    return connection.scalar(select(func.count()).select_from(some)) or 0


def rows_by_id(connection: Connection, scan_ids: Sequence[int], reader: str | None) -> list[Row]:
    """Return the rows of these scans, in this order; scans that do not exist are left out."""
    if not scan_ids:
        return []
    statement = (
        select(*COLUMNS.values(), *VISIBILITY_COLUMNS.values())
        .outerjoin(ORIGINAL, ORIGINAL.id == S.duplicate_of)
        .outerjoin(CURRENT_DUPLICATE, CURRENT_DUPLICATE.id == S.current_duplicate)
        .where(S.id.in_(scan_ids))
    )
    found = {row["scan_id"]: dict(row) for row in connection.execute(statement).mappings()}
    rows = [found[scan_id] for scan_id in scan_ids if scan_id in found]
    _hide_results(connection, rows, reader)
    images = _images_per_study(connection, {row["study_uid"] for row in rows if row["study_uid"]})
    for row in rows:
        row |= {"images": images.get(row["study_uid"], 1), "late": False}
    return rows


def list_sources(connection: Connection) -> list[str]:
    """Return the inboxes of all scans, sorted; each is found by one step along an index."""
    found: list[str] = []
    while True:
        beyond = Scan.inbox > found[-1] if found else true()
        following = connection.scalar(select(Scan.inbox).where(beyond).order_by(Scan.inbox).limit(1))
        if following is None:
            return found
        found.append(following)


def _cutoff(cap: timedelta) -> datetime:
    """Return the moment until which arrivals are late, in whole seconds, as cursors store it."""
    return datetime.now(UTC).replace(microsecond=0) - cap if cap else EPOCH


class Boundary(NamedTuple):
    """The columns of the last row of a page, after which the next page begins."""

    scan_id: int
    received_at: datetime
    worklist_rank: float | None


def _boundary(connection: Connection, after: Cursor | None) -> Boundary | None:
    if after is None:
        return None
    row = connection.execute(
        select(Scan.id, Scan.received_at, Scan.worklist_rank).where(Scan.id == after.scan_id)
    ).one_or_none()
    if row is None or (after.section in (Section.RANKED, Section.FLAGGED) and row.worklist_rank is None):
        raise BadCursor(str(BadCursor.__doc__))
    return Boundary(*row)


def _to_read(
    connection: Connection,
    filters: Filters,
    cutoff: datetime,
    after: Cursor | None,
    boundary: Boundary | None,
    limit: int,
    reader: str | None,
) -> list[tuple[Section, int]]:
    found: list[tuple[Section, int]] = []
    if cutoff > EPOCH and (after is None or after.section is Section.LATE):
        chosen = _late_ids(filters, cutoff, boundary, limit, reader)
        found = [(Section.LATE, scan_id) for scan_id in connection.scalars(chosen)]
        boundary = None
    if len(found) < limit:
        chosen = _ranked_ids(filters, cutoff, boundary, limit - len(found), reader)
        found += [(Section.RANKED, scan_id) for scan_id in connection.scalars(chosen)]
    return found


def _late_ids(filters: Filters, cutoff: datetime, boundary: Boundary | None, limit: int, reader: str | None) -> Any:
    """Select the ids of studies' first scans that have waited beyond the cap, the oldest first."""
    is_late = S.received_at <= cutoff
    earlier = and_(OTHER.received_at <= cutoff, _arrival(OTHER) < _arrival(S))
    statement = select(S.id).where(
        *_conditions(S, filters, reader), is_late, _is_first_of_study(filters, earlier, reader)
    )
    if boundary:
        statement = statement.where(_arrival(S) > _arrival_at(boundary))
    return statement.order_by(S.received_at, S.id).limit(limit)


def _ranked_ids(filters: Filters, cutoff: datetime, boundary: Boundary | None, limit: int, reader: str | None) -> Any:
    """Select the ids of studies' first scans, where none has waited beyond the cap, the most probable first."""
    before = or_(OTHER.received_at <= cutoff, _rank(OTHER) > _rank(S))
    statement = select(S.id).where(*_conditions(S, filters, reader), _is_first_of_study(filters, before, reader))
    if cutoff > EPOCH:
        statement = statement.where(S.received_at > cutoff)
    return _by_rank(statement, boundary).limit(limit)


def _flagged_ids(filters: Filters, boundary: Boundary | None, limit: int, reader: str | None) -> Any:
    return _by_rank(select(S.id).where(*_conditions(S, filters, reader)), boundary).limit(limit)


def _by_rank(statement: Any, boundary: Boundary | None) -> Any:
    if boundary:
        statement = statement.where(_rank(S) < tuple_(literal(boundary.worklist_rank), literal(boundary.scan_id)))
    return statement.order_by(S.worklist_rank.desc(), S.id.desc())


def _newest_ids(filters: Filters, boundary: Boundary | None, limit: int, reader: str | None) -> Any:
    statement = select(S.id).where(*_conditions(S, filters, reader))
    if boundary:
        statement = statement.where(_arrival(S) < _arrival_at(boundary))
    return statement.order_by(S.received_at.desc(), S.id.desc()).limit(limit)


def _is_first_of_study(filters: Filters, before: Condition, reader: str | None) -> Condition:
    """Match scans that no other scan of the study in the list precedes."""
    same_study = OTHER.study_uid == S.study_uid
    return or_(S.study_uid.is_(None), ~exists().where(same_study, *_conditions(OTHER, filters, reader), before))


def _arrival(scan: Any) -> Any:
    return tuple_(scan.received_at, scan.id)


def _arrival_at(boundary: Boundary) -> Any:
    return tuple_(literal(boundary.received_at, UtcDateTime), literal(boundary.scan_id))


def _rank(scan: Any) -> Any:
    return tuple_(scan.worklist_rank, scan.id)


def _in_worklist(scan: Any) -> tuple[Condition, ...]:
    """Match what `db.models.IN_WORKLIST` matches, in the same form: otherwise the partial indexes are not used."""
    return scan.worklist_rank.is_not(None), or_(scan.superseded_by.is_(None), scan.current_duplicate.is_not(None))


def _waits_for_reader(scan: Any) -> tuple[Condition, ...]:
    """Match what `db.models.TO_READ` matches."""
    return *_in_worklist(scan), scan.verdict.is_(None)


def _conditions(scan: Any, filters: Filters, reader: str | None) -> list[Condition]:
    conditions: list[Condition] = []
    if filters.listing is Listing.TO_READ:
        conditions += _waits_for_reader(scan)
    if filters.listing is Listing.FLAGGED:
        # a sampled scan leaves this list when its reader learns that it is not flagged
        may_be = scan.flagged.is_(True) if reader is None else or_(scan.flagged.is_(True), ~_reviewed_by(scan, reader))
        conditions += [*_in_worklist(scan), may_be]
    if filters.source is not None:
        conditions.append(scan.inbox == filters.source)
    if filters.since is not None:
        conditions.append(scan.received_at >= filters.since)
    if filters.until is not None:
        conditions.append(scan.received_at < filters.until)
    if filters.state is not None:
        conditions.append(scan.state == filters.state)
    conditions += _matches(scan.verdict, filters.verdict) + _matches(scan.caution, filters.caution)
    return conditions + _by_result(scan, filters, reader)


def _matches(column: Any, given: str | None) -> list[Condition]:
    if given is None:
        return []
    if given == NO_VERDICT:
        return [column.is_(None)]
    return [column.is_not(None) if given == ANY else and_(column.is_not(None), column == given)]


def _by_result(scan: Any, filters: Filters, reader: str | None) -> list[Condition]:
    conditions: list[Condition] = []
    # in the worklist, results that a reader may see are of flagged scans: the rank is the probability, and indexed
    by_rank = filters.listing is not Listing.ALL and reader is not None
    column = scan.worklist_rank if by_rank else scan.probability
    if filters.at_least is not None:
        conditions.append(column >= filters.at_least)
    if filters.at_most is not None:
        conditions.append(column <= filters.at_most)
    if conditions and reader is not None:
        conditions.append(or_(scan.hidden_until_verdict == false(), _reviewed_by(scan, reader)))
    return conditions


def _reviewed_by(scan: Any, reader: str) -> Condition:
    return exists().where(Review.scan_id == scan.id, Review.reviewer == reader)


def _hide_results(connection: Connection, rows: list[Row], reader: str | None) -> None:
    """Remove results that this reader may not see yet; `hidden` of each row tells whether they were removed."""
    hidden_ids = (
        {row["_original_id"] for row in rows if row.pop("_hidden_until_verdict")} if reader is not None else set()
    )
    if hidden_ids:
        said = select(Review.scan_id).where(Review.scan_id.in_(hidden_ids), Review.reviewer == reader)
        hidden_ids -= set(connection.scalars(said))
    for row in rows:
        row.pop("_hidden_until_verdict", None)
        row["hidden"] = row.pop("_original_id") in hidden_ids
        if row["hidden"]:
            row.update(dict.fromkeys(HIDDEN_FIELDS))


def _images_per_study(connection: Connection, studies: set[str]) -> dict[str, int]:
    """Return {study: number of its images}, without duplicates and superseded scans."""
    if not studies:
        return {}
    current = (Scan.duplicate_of.is_(None), Scan.superseded_by.is_(None))
    rows = connection.execute(
        select(Scan.study_uid, func.count()).where(Scan.study_uid.in_(studies), *current).group_by(Scan.study_uid)
    )
    return {study: number for study, number in rows if study is not None}


def _own_or_original(name: str) -> Any:
    """Return a column of the scan or, for a duplicate, of its original."""
    return func.coalesce(getattr(S, name), getattr(ORIGINAL, name)).label(name)


_LOCATION: Final = {
    "source": func.coalesce(CURRENT_DUPLICATE.inbox, S.inbox).label("source"),
    "path": func.coalesce(CURRENT_DUPLICATE.path, S.path).label("path"),
}
_OWN_COLUMNS: Final = (
    "state", "reason", "detail", "priority", "received_at", "finished_at", "sha256", "verdict", "reviewer",
    "reviewed_at", "duplicate_of", "superseded_by", "study_uid", "series_uid", "sop_uid", "accession_number",
    "modality", "view_position", "age_years", "sex",
)  # fmt: skip
_RESULT_COLUMNS: Final = ("probability", "flagged", "caution", "model_version", "threshold")
COLUMNS: Final[dict[str, Any]] = {
    "scan_id": S.id.label("scan_id"),
    **_LOCATION,
    **{name: getattr(S, name) for name in _OWN_COLUMNS},
    **{name: _own_or_original(name) for name in _RESULT_COLUMNS},
}
# of the scan that owns its content: a duplicate is as blind as its original, and reviewed with it
VISIBILITY_COLUMNS: Final[dict[str, Any]] = {
    "_hidden_until_verdict": func.coalesce(ORIGINAL.hidden_until_verdict, S.hidden_until_verdict).label(
        "_hidden_until_verdict"
    ),
    "_original_id": func.coalesce(S.duplicate_of, S.id).label("_original_id"),
}
