"""The JSON API, for scripts with a token and for the review app's own pages.

A script with an admin's token sees every result. All other users are readers: they see the result of a scan that is
reviewed blind only after their verdict (`db.ledger.sampling`).
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

from db import LARGEST_ID
from db.session import Database
from db.worklist import audit, cases, changes, unscored, verdicts, worklist
from db.worklist.audit import AuditAction
from db.worklist.worklist import Cursor, Filters, Listing
from pneumowatch.settings import Settings
from review import images
from review.access.auth import CurrentUser, Reader
from review.api import csv_export, schemas
from review.filters import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, Code, ListQuery, PageQuery
from review.problem_details import RequestRefused

bearer_scheme = HTTPBearer(auto_error=False, description="an API token from your account page")
router = APIRouter(
    prefix="/api",
    tags=["scans"],
    dependencies=[Security(bearer_scheme)],  # only for the OpenAPI description: `Reader` authenticates
    responses=schemas.problem_responses(
        s400="The request cannot be understood, or `after` or `since` is not valid.",
        s401="Nobody is signed in, or the token is not valid.",
        s403="The role does not permit this, or the request does not come from a page of the review app.",
        s422="A value is not valid.",
        s503="The database does not answer; try again.",
    ),
)
NOT_MODIFIED: Final[dict[int | str, dict[str, Any]]] = {
    304: {"description": "Not changed since the ETag in `If-None-Match`."}
}
SCAN_NOT_FOUND: Final = schemas.problem_responses(s404="There is no such scan.")
CSV_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "One line per scan.", "content": {"text/csv": {"schema": {"type": "string"}}}}
}
CSV_COLUMNS: Final = tuple(name for name in schemas.ScanSummary.model_fields if name != "images")

ScanId = Annotated[int, Path(ge=1, le=LARGEST_ID)]
IfNoneMatch = Annotated[str | None, Header()]
IfMatch = Annotated[str | None, Header()]


class AllScansQuery(ListQuery):
    list: Listing = Field(Listing.ALL, description="scans to read, flagged scans, or all scans")


class UnscoredQuery(BaseModel):
    why: Code = Field(None, description="only scans with this reason or state")
    before: schemas.Id | None = Field(None, description="`next` of the previous page; without it, the first page")
    limit: int = Field(DEFAULT_PAGE_SIZE, ge=1, le=MAX_PAGE_SIZE, description="scans per page")


@router.get("/scans", response_model=schemas.ScanPage, responses=NOT_MODIFIED, summary="List scans, page by page")
def list_scans(
    request: Request, user: Reader, query: Annotated[AllScansQuery, Query()], if_none_match: IfNoneMatch = None
) -> Response:
    return _scan_page(request, user, query.selected, query, if_none_match)


@router.get(
    "/flagged",
    response_model=schemas.ScanPage,
    responses=NOT_MODIFIED,
    summary="List flagged scans, most probable first",
)
def list_flagged(
    request: Request, user: Reader, query: Annotated[PageQuery, Query()], if_none_match: IfNoneMatch = None
) -> Response:
    """Return flagged scans, like the view `flagged_cases`.

    For a reader, the list also holds scans of the hidden sample until their verdict. These cannot be told from flagged
    scans that are reviewed blind.
    """
    return _scan_page(request, user, query.filters(Listing.FLAGGED), query, if_none_match)


@router.get(
    "/unscored",
    response_model=schemas.UnscoredPage,
    responses=NOT_MODIFIED,
    summary="List unscored scans, the newest first",
)
def list_unscored(
    request: Request, user: Reader, query: Annotated[UnscoredQuery, Query()], if_none_match: IfNoneMatch = None
) -> Response:
    def read(connection: Connection) -> schemas.UnscoredPage:
        ids = unscored.list_ids(connection, query.why, query.before, query.limit)
        return schemas.UnscoredPage(
            scans=[schemas.ScanSummary(**row) for row in worklist.rows_by_id(connection, ids, reader_of(user))],
            next=ids[-1] if len(ids) == query.limit else None,
            groups=[
                schemas.UnscoredGroup(why=group.why, number=group.number)
                for group in unscored.counts_by_reason(connection)
            ],
        )

    return etag_response(_database(request).read(read), if_none_match)


@router.get("/scans.csv", responses=CSV_RESPONSES, response_class=Response, summary="Export a list as CSV")
def export_scans(request: Request, user: Reader, query: Annotated[AllScansQuery, Query()]) -> Response:
    """Return the whole list as CSV. A text that a spreadsheet would run as a formula begins with an apostrophe."""
    database, cap, filters = _database(request), _reading_cap(request), query.selected

    def pages() -> Iterator[list[worklist.Row]]:
        after: Cursor | None = None
        while True:
            look = partial(
                worklist.fetch_page, filters=filters, cap=cap, reader=reader_of(user), after=after, limit=MAX_PAGE_SIZE
            )
            found = database.read(look)
            yield found.rows
            if found.next_cursor is None:
                return
            after = found.next_cursor

    _audit_export(request, user, query.list)
    return csv_export.csv_response(f"pneumowatch-{query.list}", CSV_COLUMNS, pages())


@router.get("/unscored.csv", responses=CSV_RESPONSES, response_class=Response, summary="Export unscored scans as CSV")
def export_unscored(request: Request, user: Reader) -> Response:
    database = _database(request)

    def pages() -> Iterator[list[worklist.Row]]:
        before: int | None = None
        while ids := database.read(partial(unscored.list_ids, before=before, limit=MAX_PAGE_SIZE)):
            yield database.read(partial(worklist.rows_by_id, scan_ids=ids, reader=reader_of(user)))
            before = ids[-1]

    _audit_export(request, user, "unscored")
    return csv_export.csv_response("pneumowatch-unscored", CSV_COLUMNS, pages())


@router.get(
    "/scans/{scan_id}",
    response_model=schemas.ScanDetail,
    responses=NOT_MODIFIED | SCAN_NOT_FOUND,
    summary="Get a scan with its predictions, verdicts and state transitions",
)
def get_scan(request: Request, user: Reader, scan_id: ScanId, if_none_match: IfNoneMatch = None) -> Response:
    return etag_response(
        _database(request).read(lambda connection: _scan_detail(connection, scan_id, user)), if_none_match
    )


@router.post(
    "/scans/{scan_id}/review",
    status_code=201,
    response_model=schemas.RecordedReview,
    responses=SCAN_NOT_FOUND
    | schemas.problem_responses(
        s409="Another verdict came first (`expected_latest`), or the scan has no final state yet.",
        s412="The scan has changed since the ETag in `If-Match`.",
        s413="The request is larger than a verdict can be.",
    ),
    summary="Record a verdict",
)
def create_review(
    request: Request,
    user: Reader,
    scan_id: ScanId,
    new_review: schemas.NewReview,
    background_tasks: BackgroundTasks,
    if_match: IfMatch = None,
) -> schemas.RecordedReview:
    """Record a verdict. It is stored durably before the response is sent.

    With `expected_latest`, or with the scan's ETag in `If-Match`, the verdict is recorded only if the scan has not
    changed since the reader saw it. Repeating the same verdict with no other in between records nothing new.
    """
    comment = (new_review.comment or "").replace("\0", "").strip() or None

    def record(connection: Connection) -> schemas.RecordedReview:
        locked = verdicts.lock_latest_review(connection, scan_id)
        if locked is None:
            raise RequestRefused(404, f"There is no scan {scan_id}.")
        original, latest = locked
        if if_match is not None and not _etag_matches(_scan_detail(connection, scan_id, user), if_match):
            raise RequestRefused(412, f"Scan {scan_id} has changed since it was loaded. Load it again.")
        if new_review.expected_latest is not None and new_review.expected_latest != latest:
            raise RequestRefused(409, f"Another verdict on scan {scan_id} came first. Look at it, then record yours.")
        number = verdicts.record_verdict(
            connection, scan_id, new_review.verdict, user.name, comment, new_review.prediction_id
        )
        audit.record_action(connection, user.name, AuditAction.VERDICT, scan_id, new_review.verdict)
        return schemas.RecordedReview(review_id=number, scan_id=original, verdict=new_review.verdict)

    recorded = _database(request).write(record)
    background_tasks.add_task(images.keep_image, request.app.state, scan_id)
    return recorded


@router.get(
    "/changes",
    response_model=schemas.ListChanges,
    responses=NOT_MODIFIED,
    summary="Count the changes since a list was loaded",
)
def list_changes(
    request: Request,
    user: Reader,
    since: Annotated[str, Query(max_length=64, description="`now` of an earlier response")],
    if_none_match: IfNoneMatch = None,
) -> Response:
    moment = changes.ChangeMarker.parse(since)
    if moment is None:
        raise RequestRefused(400, "`since` is not valid: use `now` of an earlier response, or load the list again.")

    def read(connection: Connection) -> schemas.ListChanges:
        found, now = changes.changes_since(connection, moment), changes.current_marker(connection)
        return schemas.ListChanges(entered=found.entered, reviewed=found.reviewed, now=str(now))

    return etag_response(_database(request).read(read), if_none_match)


def reader_of(user: CurrentUser) -> str | None:
    """Return the reader from whom results may be hidden; None for a script with an admin's token, which sees all."""
    return None if user.via == "token" and user.is_admin else user.name


def etag_response(body: BaseModel, if_none_match: str | None) -> Response:
    """Return a JSON response with an ETag, or 304 if `If-None-Match` has that ETag."""
    headers = {"ETag": _etag(body), "Cache-Control": "private, no-cache"}
    if if_none_match is not None and _etag_matches(body, if_none_match):
        return Response(status_code=304, headers=headers)
    return Response(body.model_dump_json(), media_type="application/json", headers=headers)


def _scan_page(
    request: Request, user: CurrentUser, filters: Filters, query: PageQuery, if_none_match: str | None
) -> Response:
    cap, reader = _reading_cap(request), reader_of(user)

    def read(connection: Connection) -> schemas.ScanPage:
        page = worklist.fetch_page(connection, filters, cap, reader, query.cursor, query.limit)
        count = worklist.count_scans(connection, filters, reader)
        return schemas.ScanPage(
            scans=[schemas.ScanSummary(**row) for row in page.rows],
            next=str(page.next_cursor) if page.next_cursor else None,
            count=count.number,
            more=count.more,
        )

    return etag_response(_database(request).read(read), if_none_match)


def _scan_detail(connection: Connection, scan_id: int, user: CurrentUser) -> schemas.ScanDetail:
    """Return a scan's details as this user may see them. Raises RequestRefused if there is no such scan."""
    case, rows = cases.get_case(connection, scan_id), worklist.rows_by_id(connection, [scan_id], reader_of(user))
    if case is None or not rows:
        raise RequestRefused(404, f"There is no scan {scan_id}.")
    (row,) = rows
    standing = [one["id"] for one in case.reviews if one["retracted_at"] is None]
    return schemas.ScanDetail(
        **row,
        predictions=[]
        if row["hidden"]
        else [schemas.ScanPrediction(prediction_id=one["id"], **one) for one in case.predictions],
        reviews=[schemas.ScanReview(review_id=one["id"], **one) for one in case.reviews],
        events=[schemas.StateTransition(**one) for one in case.events],
        latest_review=max(standing, default=0),
    )


def _etag(body: BaseModel) -> str:
    return f'"{hashlib.sha256(body.model_dump_json().encode()).hexdigest()[:24]}"'


def _etag_matches(body: BaseModel, header: str) -> bool:
    """Tell whether an If-Match or If-None-Match header contains the ETag of `body` (RFC 9110, 13.1)."""
    given = {tag.strip().removeprefix("W/") for tag in header.split(",")}
    return "*" in given or _etag(body) in given


def _audit_export(request: Request, user: CurrentUser, what: str) -> None:
    _database(request).write(
        lambda connection: audit.record_action(connection, user.name, AuditAction.EXPORT, detail=what)
    )


def _database(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


def _reading_cap(request: Request) -> timedelta:
    settings: Settings = request.app.state.settings
    return timedelta(minutes=settings.reading_cap_minutes)
