"""The JSON API, for scripts with a token and for the desk's own pages.

A script whose token is an admin's sees every result. All others read, and see that of a film that is read blind after
their verdict (`db.sampling`).
"""

import hashlib
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from typing import Annotated, Any, Final

from fastapi import APIRouter, BackgroundTasks, Header, Path, Query, Request, Security
from fastapi.security import HTTPBearer
from pydantic import BaseModel, Field
from sqlalchemy import Connection
from starlette.responses import Response

from db import LARGEST_ID, audit, cases, news, reviews, unscored, worklist
from db.audit import Act
from db.session import Database
from db.worklist import Cursor, Filters, Listing
from pneumowatch.settings import Settings
from review import export, films, wire
from review.auth import Reader, User
from review.filters import LONGEST_PAGE, PAGE, Listed, Paged, Word
from review.problems import Refused

bearer = HTTPBearer(auto_error=False, description="a token from the page of one's account")
router = APIRouter(
    prefix="/api",
    tags=["scans"],
    dependencies=[Security(bearer)],  # for the description; who asks is found out by `Reader`
    responses=wire.problems(
        s400="The request cannot be understood, or this is no page of the list.",
        s401="Nobody is signed in, or the token is void.",
        s403="Not for this role, or not from a page of the desk.",
        s422="A value that cannot be used.",
        s503="The database does not answer; try again.",
    ),
)
UNCHANGED: Final[dict[int | str, dict[str, Any]]] = {304: {"description": "It is as `If-None-Match` has it."}}
NO_SCAN: Final = wire.problems(s404="There is no such scan.")
CSV: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "One line a scan.", "content": {"text/csv": {"schema": {"type": "string"}}}}
}
COLUMNS: Final = tuple(name for name in wire.ScanLine.model_fields if name != "films")

ScanId = Annotated[int, Path(ge=1, le=LARGEST_ID)]
IfNoneMatch = Annotated[str | None, Header()]
IfMatch = Annotated[str | None, Header()]


class All(Listed):
    list: Listing = Field(Listing.ALL, description="what waits for a reader, what is flagged, or every scan")


class Older(BaseModel):
    why: Word = Field(None, description="one reason, or one state")
    before: wire.Id | None = Field(None, description="`next` of the page before")
    limit: int = Field(PAGE, ge=1, le=LONGEST_PAGE, description="lines of a page")


@router.get("/scans", response_model=wire.Scans, responses=UNCHANGED, summary="A list of scans, page by page")
def scans(
    request: Request, user: Reader, asked: Annotated[All, Query()], if_none_match: IfNoneMatch = None
) -> Response:
    return _listed(request, user, asked.chosen, asked, if_none_match)


@router.get("/flagged", response_model=wire.Scans, responses=UNCHANGED, summary="What is flagged, most probable first")
def flagged(
    request: Request, user: Reader, asked: Annotated[Paged, Query()], if_none_match: IfNoneMatch = None
) -> Response:
    """As the view `flagged_cases`. For a reader, the films of the hidden sample are among them until their verdict, and
    cannot be told from flagged films that are read blind."""
    return _listed(request, user, asked.filters(Listing.FLAGGED), asked, if_none_match)


@router.get("/unscored", response_model=wire.Unscored, responses=UNCHANGED, summary="What nobody has read")
def without_result(
    request: Request, user: Reader, asked: Annotated[Older, Query()], if_none_match: IfNoneMatch = None
) -> Response:
    def read(connection: Connection) -> wire.Unscored:
        ids = unscored.listed(connection, asked.why, asked.before, asked.limit)
        return wire.Unscored(
            scans=[wire.ScanLine(**row) for row in worklist.rows_of(connection, ids, reads_as(user))],
            next=ids[-1] if len(ids) == asked.limit else None,
            groups=[wire.Group(why=group.why, number=group.number) for group in unscored.groups(connection)],
        )

    return tagged(_database(request).read(read), if_none_match)


@router.get("/scans.csv", responses=CSV, response_class=Response, summary="A whole list as CSV")
def scans_csv(request: Request, user: Reader, asked: Annotated[All, Query()]) -> Response:
    """Texts that a spreadsheet would take for a formula begin with an apostrophe."""
    database, cap, filters = _database(request), _cap(request), asked.chosen

    def pages() -> Iterator[list[worklist.Row]]:
        after: Cursor | None = None
        while True:
            look = partial(
                worklist.page, filters=filters, cap=cap, reader=reads_as(user), after=after, limit=LONGEST_PAGE
            )
            found = database.read(look)
            yield found.rows
            if found.following is None:
                return
            after = found.following

    _audit(request, user, asked.list)
    return export.response(f"pneumowatch-{asked.list}", COLUMNS, pages())


@router.get("/unscored.csv", responses=CSV, response_class=Response, summary="What nobody has read, as CSV")
def unscored_csv(request: Request, user: Reader) -> Response:
    database = _database(request)

    def pages() -> Iterator[list[worklist.Row]]:
        before: int | None = None
        while ids := database.read(partial(unscored.listed, before=before, limit=LONGEST_PAGE)):
            yield database.read(partial(worklist.rows_of, scan_ids=ids, reader=reads_as(user)))
            before = ids[-1]

    _audit(request, user, "unscored")
    return export.response("pneumowatch-unscored", COLUMNS, pages())


@router.get(
    "/scans/{scan_id}", response_model=wire.Scan, responses=UNCHANGED | NO_SCAN, summary="All that is known of a scan"
)
def scan(request: Request, user: Reader, scan_id: ScanId, if_none_match: IfNoneMatch = None) -> Response:
    return tagged(_database(request).read(lambda connection: _scan(connection, scan_id, user)), if_none_match)


@router.post(
    "/scans/{scan_id}/review",
    status_code=201,
    response_model=wire.Recorded,
    responses=NO_SCAN
    | wire.problems(
        s409="Somebody else's verdict came first, or there is nothing to judge yet.",
        s412="The scan is no longer as `If-Match` has it.",
        s413="More was sent than a verdict is.",
    ),
    summary="Record a verdict",
)
def review(
    request: Request,
    user: Reader,
    scan_id: ScanId,
    said: wire.Said,
    later: BackgroundTasks,
    if_match: IfMatch = None,
) -> wire.Recorded:
    """It is durable when the answer comes. With `expected_latest`, or `If-Match` and the scan's ETag, it is recorded
    only where the reader saw what stands there now. Said again with nobody in between, it is the same verdict."""
    comment = (said.comment or "").replace("\0", "").strip() or None

    def record(connection: Connection) -> wire.Recorded:
        held = reviews.hold(connection, scan_id)
        if held is None:
            raise Refused(404, f"There is no scan {scan_id}.")
        original, latest = held
        if if_match is not None and not _matches(_scan(connection, scan_id, user), if_match):
            raise Refused(412, f"Scan {scan_id} has changed since it was read; look at it again.")
        if said.expected_latest is not None and said.expected_latest != latest:
            raise Refused(409, f"Another verdict on scan {scan_id} came first; look at it, then say yours.")
        number = reviews.record(connection, scan_id, said.verdict, user.name, comment, said.prediction_id)
        audit.record(connection, user.name, Act.VERDICT, scan_id, said.verdict)
        return wire.Recorded(review_id=number, scan_id=original, verdict=said.verdict)

    recorded = _database(request).write(record)
    later.add_task(films.keep, request.app.state, scan_id)
    return recorded


@router.get("/news", response_model=wire.News, responses=UNCHANGED, summary="What has changed since a list was shown")
def what_is_new(
    request: Request,
    user: Reader,
    since: Annotated[str, Query(max_length=64, description="`now` of an earlier answer")],
    if_none_match: IfNoneMatch = None,
) -> Response:
    moment = news.Moment.parse(since)
    if moment is None:
        raise Refused(400, "That is no moment of this list; load it anew.")

    def read(connection: Connection) -> wire.News:
        found, now = news.since(connection, moment), news.now(connection)
        return wire.News(entered=found.entered, judged=found.judged, now=str(now))

    return tagged(_database(request).read(read), if_none_match)


def reads_as(user: User) -> str | None:
    """Who reads; None where results are hidden from nobody: a script of those who look after the desk."""
    return None if user.via == "token" and user.is_admin else user.name


def tagged(body: BaseModel, if_none_match: str | None) -> Response:
    """With an ETag, or 304 where whoever asks has it already."""
    headers = {"ETag": _tag(body), "Cache-Control": "private, no-cache"}
    if if_none_match is not None and _matches(body, if_none_match):
        return Response(status_code=304, headers=headers)
    return Response(body.model_dump_json(), media_type="application/json", headers=headers)


def _listed(request: Request, user: User, filters: Filters, asked: Paged, if_none_match: str | None) -> Response:
    cap, reader = _cap(request), reads_as(user)

    def read(connection: Connection) -> wire.Scans:
        page = worklist.page(connection, filters, cap, reader, asked.cursor, asked.limit)
        count = worklist.count(connection, filters, reader)
        return wire.Scans(
            scans=[wire.ScanLine(**row) for row in page.rows],
            next=str(page.following) if page.following else None,
            count=count.number,
            more=count.more,
        )

    return tagged(_database(request).read(read), if_none_match)


def _scan(connection: Connection, scan_id: int, user: User) -> wire.Scan:
    """Raises Refused where there is none."""
    case, rows = cases.case(connection, scan_id), worklist.rows_of(connection, [scan_id], reads_as(user))
    if case is None or not rows:
        raise Refused(404, f"There is no scan {scan_id}.")
    (row,) = rows
    standing = [one["id"] for one in case.reviews if one["retracted_at"] is None]
    return wire.Scan(
        **row,
        predictions=[]
        if row["hidden"]
        else [wire.Prediction(prediction_id=one["id"], **one) for one in case.predictions],
        reviews=[wire.Review(review_id=one["id"], **one) for one in case.reviews],
        events=[wire.Event(**one) for one in case.events],
        latest_review=max(standing, default=0),
    )


def _tag(body: BaseModel) -> str:
    return f'"{hashlib.sha256(body.model_dump_json().encode()).hexdigest()[:24]}"'


def _matches(body: BaseModel, header: str) -> bool:
    """Whether If-Match or If-None-Match names it (RFC 9110, 13.1)."""
    given = {tag.strip().removeprefix("W/") for tag in header.split(",")}
    return "*" in given or _tag(body) in given


def _audit(request: Request, user: User, what: str) -> None:
    _database(request).write(lambda connection: audit.record(connection, user.name, Act.EXPORT, detail=what))


def _database(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


def _cap(request: Request) -> timedelta:
    settings: Settings = request.app.state.settings
    return timedelta(minutes=settings.reading_cap_minutes)
