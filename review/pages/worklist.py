"""The pages of lists: worklist, flagged scans, all scans, search results, and unscored scans."""

from datetime import timedelta
from pathlib import PurePosixPath
from typing import Annotated, Any, Final

from fastapi import APIRouter, Form, Query, Request
from sqlalchemy import Connection
from starlette.responses import Response

from db.session import Database
from db.states import Reason, State, Verdict
from db.worklist import changes, search, unscored, worklist
from db.worklist.worklist import Listing
from pneumowatch.settings import Settings
from review.access.auth import Reader
from review.filters import ListQuery
from review.templating import jinja_environment, render_page

router = APIRouter(include_in_schema=False)
MAX_ID: Final = 2**63 - 1
MAX_SEARCH_LENGTH: Final = 200  # characters
LISTING_TITLES: Final = {Listing.TO_READ: "To read", Listing.FLAGGED: "Flagged", Listing.ALL: "All scans"}

# what to do about a scan without a result; its row says why it has none
ADVICE: Final[dict[str, str]] = {
    Reason.EMPTY: "Send the image again: the file is empty.",
    Reason.UNSUPPORTED: "Send it as DICOM, JPEG, PNG or TIFF, or read it without pneumowatch.",
    Reason.UNREADABLE: "Send the image again. If it fails again, read it without pneumowatch.",
    Reason.TOO_LARGE: "Read it without pneumowatch, or ask for higher limits (PNEUMOWATCH_MAX_BYTES, _MAX_PIXELS).",
    Reason.TOO_SLOW: "Read it without pneumowatch, or ask for a higher PNEUMOWATCH_DECODE_SECONDS.",
    Reason.NO_PIXELS: "Send the image itself: the file has no pixels.",
    Reason.NOT_CHEST_XRAY: (
        "Read it yourself: the input gate takes it for something other than a frontal chest x-ray, and may be wrong."
    ),
    Reason.NOT_FRONTAL: "Read it yourself: the model is for frontal views only.",
    Reason.OUTSIDE_AGE: "Read it yourself: the model is not for patients of this age.",
    Reason.NO_PERMISSION: "Give pneumowatch's user read permission, then run `pneumowatch requeue`.",
    Reason.NOT_A_FILE: "Send the image itself: this is a link or a folder.",
    Reason.VANISHED: "Send the image again: the file was gone before it was read.",
    Reason.SUPERSEDED: "Nothing: newer content of the same file has a scan of its own.",
    Reason.ERASED: "Nothing: its data were erased on request.",
    State.FAILED: "Read it yourself: its workers crashed. `pneumowatch requeue --failed` tries it again.",
    State.QUEUED: "It has waited too long. Check on the overview that workers are running.",
    State.RUNNING: "It has been processed for too long. Check on the overview that its worker is running.",
}


@router.get("/")
def worklist_page(request: Request, user: Reader, query: Annotated[ListQuery, Query()]) -> Response:
    settings: Settings = request.app.state.settings
    database: Database = request.app.state.database
    filters, cap = query.selected, reading_cap(settings)

    def read(connection: Connection) -> dict[str, Any]:
        return {
            # first, so that scans which arrive during the other queries count as changes
            "moment": changes.current_marker(connection),
            "found": worklist.fetch_page(connection, filters, cap, user.name, query.cursor, query.limit),
            "count": worklist.count_scans(connection, filters, user.name),
            "late": worklist.count_late(connection, cap) if query.list is Listing.TO_READ else 0,
            "sources": worklist.list_sources(connection),
        }

    context = database.read(read)
    following = context["found"].next_cursor
    return render_page(
        request,
        "worklist.html",
        **context,
        query=query,
        names=LISTING_TITLES,
        narrowed=filters.narrowed,
        list_url=f"/{query.query_string(after=None)}",
        next_page=f"/{query.query_string(after=following)}" if following else "",
        export=f"/api/scans.csv{query.query_string(after=None, limit=None, list=query.list)}",
        # the scan's page keeps it, so that the next case comes from the same list
        list_query=query.query_string(after=None, limit=None),
        cap=cap,
        verdicts=list(Verdict),
        states=list(State),
    )


@router.post("/search")
def search_page(
    request: Request,
    user: Reader,
    q: Annotated[str, Form(max_length=MAX_SEARCH_LENGTH)] = "",
    before: Annotated[int | None, Form(ge=1, le=MAX_ID)] = None,
) -> Response:
    """Search by POST and render the result without a redirect, so that no name or number is ever part of a URL."""
    text = q.replace("\0", "").strip()

    def read(connection: Connection) -> tuple[search.SearchResult, list[worklist.Row]]:
        found = search.search_scans(connection, text, before)
        return found, worklist.rows_by_id(connection, found.scan_ids, user.name)

    found, rows = request.app.state.database.read(read)
    return render_page(
        request, "search.html", q=text, found=found, rows=rows, shortest=search.MIN_LETTERS, before=before
    )


@router.get("/unscored")
def unscored_page(
    request: Request,
    user: Reader,
    why: Annotated[str | None, Query(pattern="^[a-z_]{1,32}$")] = None,
    before: Annotated[int | None, Query(ge=1, le=MAX_ID)] = None,
) -> Response:
    def read(connection: Connection) -> dict[str, Any]:
        ids = unscored.list_ids(connection, why, before)
        return {
            "groups": unscored.counts_by_reason(connection),
            "rows": worklist.rows_by_id(connection, ids, user.name),
            "older": ids[-1] if len(ids) == unscored.PAGE_SIZE else None,
        }

    return render_page(request, "unscored.html", **request.app.state.database.read(read), why=why, advice=ADVICE)


def reading_cap(settings: Settings) -> timedelta:
    return timedelta(minutes=settings.reading_cap_minutes)


def file_name(path: str) -> str:
    """Return the last component of a path, by which people know a scan."""
    return PurePosixPath(path).name or path


def words(code: str) -> str:
    """Return a code as words: `not_frontal` becomes `not frontal`."""
    return code.replace("_", " ")


def duration_text(of: timedelta) -> str:
    """Format a duration: `4 h` if it is whole hours, else `90 min`."""
    minutes = round(of.total_seconds() / 60)
    return f"{minutes} min" if minutes % 60 else f"{minutes // 60} h"


jinja_environment().filters.update({"file_name": file_name, "words": words, "duration": duration_text})
