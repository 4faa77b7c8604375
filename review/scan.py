"""One film, and what its reader says of it. All of it works by plain forms; the viewer and the keys make it quick."""

from datetime import timedelta
from typing import Annotated, Final

from fastapi import APIRouter, BackgroundTasks, Form, Query, Request
from pydantic import AfterValidator
from sqlalchemy import Connection, RowMapping
from starlette.responses import RedirectResponse, Response

from db import LARGEST_ID, audit, cases, reviews, worklist
from db.audit import Act
from db.cases import Case
from db.states import Verdict
from db.worklist import Filters
from review import films
from review.auth import Reader
from review.films import ScanId
from review.problems import Refused
from review.templating import page

router = APIRouter(include_in_schema=False)

WORDS: Final = {  # of verdicts, and of keys
    Verdict.PNEUMONIA: ("Pneumonia", "p"),
    Verdict.NO_PNEUMONIA: ("No pneumonia", "n"),
    Verdict.UNSURE: ("Unsure", "u"),
    Verdict.UNUSABLE: ("Unusable", "x"),
}
LONGEST_COMMENT: Final = 2000  # characters
PASSED: Final = 50  # films that a reader left for later, and that are not offered again at once


def _ids(written: str) -> str:
    """`1,2,3`, the newest last; what is no list of ids is none."""
    ids = [part for part in written.split(",") if part.isdecimal() and 0 < int(part) <= LARGEST_ID]
    return ",".join(ids[-PASSED:])


Passed = Annotated[str, AfterValidator(_ids)]
ReviewId = Annotated[int, Query(ge=1, le=LARGEST_ID)]


@router.get("/scans/{scan_id}")
def scan(
    request: Request,
    scan_id: ScanId,
    user: Reader,
    saved: ReviewId | None = None,
    undone: ReviewId | None = None,
    passed: Annotated[Passed, Query(max_length=2000)] = "",
) -> Response:
    """The page of one film.

    `saved`: the reader's verdict that led here, which can be taken back here. `undone`: one that was taken back.
    """
    state = request.app.state

    def look(connection: Connection) -> tuple[Case, int | None, Case | None]:
        case, away = _case(connection, scan_id), [*_numbers(passed), scan_id]
        return case, _next(request, connection, user.name, away), _saved(connection, saved, user.name)

    case, following, before = state.database.read(look)
    state.database.write(lambda connection: audit.record(connection, user.name, Act.FILM_OPENED, scan_id, "page"))
    study = case.scan["study_uid"]
    return page(
        request,
        "scan.html",
        case=case,
        open=case.open_to(user.name),
        mapped=case.open_to(user.name) and case.scored and films.has_map(state, case),
        mine=case.said_by(user.name),
        words={str(verdict): word for verdict, (word, _) in WORDS.items()},
        keys={str(verdict): key for verdict, (_, key) in WORDS.items()},
        following=following,
        passed=passed,
        passing=_ids(f"{passed},{scan_id}"),
        before=before,
        before_review=before.said_by(user.name) if before else None,
        undone=undone is not None,
        viewer=state.settings.viewer_url.replace("{study_uid}", study) if study else "",
        longest_comment=LONGEST_COMMENT,
    )


@router.post("/scans/{scan_id}/verdict")
def judge(
    request: Request,
    scan_id: ScanId,
    user: Reader,
    later: BackgroundTasks,
    verdict: Annotated[Verdict, Form()],
    comment: Annotated[str, Form(max_length=LONGEST_COMMENT)] = "",
    prediction: Annotated[int | None, Form(ge=1, le=LARGEST_ID)] = None,
    passed: Annotated[Passed, Form(max_length=2000)] = "",
) -> Response:
    """Records what a reader says, with the prediction that stood on their page; then the next case."""
    state = request.app.state
    said = _clean(comment) or None

    def record(connection: Connection) -> tuple[int, int | None]:
        review = reviews.record(connection, scan_id, verdict, user.name, said, prediction)
        audit.record(connection, user.name, Act.VERDICT, scan_id, verdict)
        return review, _next(request, connection, user.name, [*_numbers(passed), scan_id])

    review, following = state.database.write(record)  # committed, and on the disk, before anybody is told
    later.add_task(films.keep, state, scan_id)
    left = f"&passed={passed}" if passed else ""
    answer = RedirectResponse(f"/scans/{following or scan_id}?saved={review}{left}", 303)
    answer.background = later
    return answer


@router.post("/scans/{scan_id}/undo")
def undo(
    request: Request, scan_id: ScanId, user: Reader, review: Annotated[int, Form(ge=1, le=LARGEST_ID)]
) -> Response:
    """Takes a reader's own verdict back, and leads to its film. The verdict stays in the film's history."""

    def retract(connection: Connection) -> int:
        judged = reviews.retract(connection, review, user.name)
        audit.record(connection, user.name, Act.VERDICT_RETRACTED, judged)
        return judged

    judged = request.app.state.database.write(retract)
    return RedirectResponse(f"/scans/{judged}?undone={review}", 303)


def _case(connection: Connection, scan_id: int) -> Case:
    found = cases.case(connection, scan_id)
    if found is None:
        raise Refused(404, f"There is no scan {scan_id}.")
    return found


def _saved(connection: Connection, review_id: int | None, reviewer: str) -> Case | None:
    """The case of a verdict that this reader has just given, and that stands."""
    review: RowMapping | None = reviews.standing(connection, review_id, reviewer) if review_id else None
    return cases.case(connection, review["scan_id"]) if review else None


def _next(request: Request, connection: Connection, reader: str, away: list[int]) -> int | None:
    cap = timedelta(minutes=request.app.state.settings.reading_cap_minutes)
    return worklist.first(connection, Filters(), cap, away, reader)


def _numbers(passed: str) -> list[int]:
    return [int(part) for part in passed.split(",") if part]


def _clean(comment: str) -> str:
    """Lines as they were typed; no other control characters, which PostgreSQL and terminals do not take."""
    lines = comment.replace("\r\n", "\n").split("\n")
    return "\n".join("".join(letter for letter in line if letter.isprintable()) for line in lines).strip()
