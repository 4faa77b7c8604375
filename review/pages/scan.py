"""The page of one scan, and its verdicts. Everything works by plain forms; JavaScript adds the viewer and the keys."""

from datetime import timedelta
from typing import Annotated, Final

from fastapi import APIRouter, BackgroundTasks, Form, Query, Request
from pydantic import AfterValidator
from sqlalchemy import Connection, RowMapping
from starlette.responses import RedirectResponse, Response

from db import LARGEST_ID
from db.states import Verdict
from db.worklist import audit, cases, verdicts, worklist
from db.worklist.audit import AuditAction
from db.worklist.cases import Case
from db.worklist.worklist import Filters
from review import images
from review.access.auth import Reader
from review.images import ScanId
from review.problem_details import RequestRefused
from review.templating import render_page

router = APIRouter(include_in_schema=False)

VERDICT_LABELS: Final = {  # (label, key)
    Verdict.PNEUMONIA: ("Pneumonia", "p"),
    Verdict.NO_PNEUMONIA: ("No pneumonia", "n"),
    Verdict.UNSURE: ("Unsure", "u"),
    Verdict.UNUSABLE: ("Unusable", "x"),
}
MAX_COMMENT_CHARACTERS: Final = 2000
MAX_SKIPPED: Final = 50  # scans that a reader left for later: they are not offered again at once


def _id_list(written: str) -> str:
    """Return the valid scan ids of a list like `1,2,3`, the newest last, at most MAX_SKIPPED; drop all else."""
    ids = [part for part in written.split(",") if part.isdecimal() and 0 < int(part) <= LARGEST_ID]
    return ",".join(ids[-MAX_SKIPPED:])


SkippedIds = Annotated[str, AfterValidator(_id_list)]
ReviewId = Annotated[int, Query(ge=1, le=LARGEST_ID)]


@router.get("/scans/{scan_id}")
def scan_page(
    request: Request,
    scan_id: ScanId,
    user: Reader,
    saved: ReviewId | None = None,
    undone: ReviewId | None = None,
    skipped: Annotated[SkippedIds, Query(max_length=2000)] = "",
) -> Response:
    """Show the page of one scan.

    `saved`: the verdict that the reader has just given, which the page offers to undo. `undone`: a verdict that the
    reader has just taken back. `skipped`: scans that the reader left for later.
    """
    state = request.app.state

    def look(connection: Connection) -> tuple[Case, int | None, Case | None]:
        case, excluded = _case(connection, scan_id), [*_parse_ids(skipped), scan_id]
        return case, _next_scan(request, connection, user.name, excluded), _saved_case(connection, saved, user.name)

    case, next_scan_id, saved_case = state.database.read(look)
    state.database.write(
        lambda connection: audit.record_action(connection, user.name, AuditAction.IMAGE_OPENED, scan_id, "page")
    )
    study = case.scan["study_uid"]
    return render_page(
        request,
        "scan.html",
        case=case,
        result_visible=case.result_visible_to(user.name),
        show_map=case.result_visible_to(user.name) and case.scored and images.has_map(state, case),
        own_verdict=case.review_by(user.name),
        verdict_labels={str(verdict): word for verdict, (word, _) in VERDICT_LABELS.items()},
        verdict_keys={str(verdict): key for verdict, (_, key) in VERDICT_LABELS.items()},
        next_scan_id=next_scan_id,
        skipped=skipped,
        skipping=_id_list(f"{skipped},{scan_id}"),
        saved_case=saved_case,
        saved_review=saved_case.review_by(user.name) if saved_case else None,
        undone=undone is not None,
        viewer=state.settings.viewer_url.replace("{study_uid}", study) if study else "",
        longest_comment=MAX_COMMENT_CHARACTERS,
    )


@router.post("/scans/{scan_id}/verdict")
def post_verdict(
    request: Request,
    scan_id: ScanId,
    user: Reader,
    background_tasks: BackgroundTasks,
    verdict: Annotated[Verdict, Form()],
    comment: Annotated[str, Form(max_length=MAX_COMMENT_CHARACTERS)] = "",
    prediction: Annotated[int | None, Form(ge=1, le=LARGEST_ID)] = None,
    skipped: Annotated[SkippedIds, Form(max_length=2000)] = "",
) -> Response:
    """Record a reader's verdict with the prediction that their page showed, and redirect to the next case."""
    state = request.app.state
    said = _clean_comment(comment) or None

    def record(connection: Connection) -> tuple[int, int | None]:
        review = verdicts.record_verdict(connection, scan_id, verdict, user.name, said, prediction)
        audit.record_action(connection, user.name, AuditAction.VERDICT, scan_id, verdict)
        return review, _next_scan(request, connection, user.name, [*_parse_ids(skipped), scan_id])

    review, next_scan_id = state.database.write(record)  # committed to disk before the response
    background_tasks.add_task(images.keep_image, state, scan_id)
    left = f"&skipped={skipped}" if skipped else ""
    answer = RedirectResponse(f"/scans/{next_scan_id or scan_id}?saved={review}{left}", 303)
    answer.background = background_tasks
    return answer


@router.post("/scans/{scan_id}/undo")
def post_undo(
    request: Request, scan_id: ScanId, user: Reader, review: Annotated[int, Form(ge=1, le=LARGEST_ID)]
) -> Response:
    """Retract a reader's own verdict, and redirect to its scan. The verdict stays in the scan's history."""

    def retract(connection: Connection) -> int:
        reviewed_scan = verdicts.retract_verdict(connection, review, user.name)
        audit.record_action(connection, user.name, AuditAction.VERDICT_RETRACTED, reviewed_scan)
        return reviewed_scan

    reviewed_scan = request.app.state.database.write(retract)
    return RedirectResponse(f"/scans/{reviewed_scan}?undone={review}", 303)


def _case(connection: Connection, scan_id: int) -> Case:
    found = cases.get_case(connection, scan_id)
    if found is None:
        raise RequestRefused(404, f"There is no scan {scan_id}.")
    return found


def _saved_case(connection: Connection, review_id: int | None, reviewer: str) -> Case | None:
    """Return the case of a verdict that this reader gave and has not retracted; None if there is no such verdict."""
    review: RowMapping | None = verdicts.standing_review(connection, review_id, reviewer) if review_id else None
    return cases.get_case(connection, review["scan_id"]) if review else None


def _next_scan(request: Request, connection: Connection, reader: str, excluded: list[int]) -> int | None:
    cap = timedelta(minutes=request.app.state.settings.reading_cap_minutes)
    return worklist.next_scan(connection, Filters(), cap, excluded, reader)


def _parse_ids(skipped: str) -> list[int]:
    return [int(part) for part in skipped.split(",") if part]


def _clean_comment(comment: str) -> str:
    """Return a comment with its line breaks, without other control characters: PostgreSQL and terminals reject them."""
    lines = comment.replace("\r\n", "\n").split("\n")
    return "\n".join("".join(letter for letter in line if letter.isprintable()) for line in lines).strip()
