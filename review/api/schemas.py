"""JSON schemas of the API, from which the OpenAPI description is generated."""

from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from db import LARGEST_ID
from db.states import State, Verdict

MAX_COMMENT_LENGTH: Final = 2000  # characters
HIDDEN_DESCRIPTION: Final = "null if there is no result, or while it is hidden until the reader's verdict"
Id = Annotated[int, Field(ge=1, le=LARGEST_ID)]


class ProblemDetails(BaseModel):
    """An error, as in RFC 9457."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str


class ScanSummary(BaseModel):
    """One scan, with the columns of the view `scan_ledger`."""

    model_config = ConfigDict(from_attributes=True, extra="ignore")

    scan_id: int
    source: str
    path: str = Field(description="relative to its inbox")
    state: State
    reason: str | None
    detail: str | None
    priority: int
    received_at: datetime
    finished_at: datetime | None
    sha256: str | None
    probability: float | None = Field(description=HIDDEN_DESCRIPTION)
    flagged: bool | None = Field(description=HIDDEN_DESCRIPTION)
    hidden: bool = Field(description="whether `probability` and `flagged` are hidden until the reader's verdict")
    caution: str | None
    model_version: str | None
    threshold: float | None
    verdict: Verdict | None
    reviewer: str | None
    reviewed_at: datetime | None
    duplicate_of: int | None
    superseded_by: int | None
    study_uid: str | None
    series_uid: str | None
    sop_uid: str | None
    accession_number: str | None
    modality: str | None
    view_position: str | None
    age_years: float | None
    images: int = Field(description="images of the same study, without duplicates")


class ScanPage(BaseModel):
    """A page of a list."""

    scans: list[ScanSummary]
    next: str | None = Field(description="`after` for the next page; null: this is the last page")
    count: int = Field(description="scans in the list; if `more` is true, there are more than this")
    more: bool


class UnscoredGroup(BaseModel):
    why: str = Field(description="reason of the rejection, or the state")
    number: int


class UnscoredPage(BaseModel):
    """A page of unscored scans."""

    scans: list[ScanSummary]
    next: int | None = Field(description="`before` for the next page; null: this is the last page")
    groups: list[UnscoredGroup]


class ScanPrediction(BaseModel):
    prediction_id: int
    model_version: str
    probability: float
    threshold: float
    flagged: bool
    current: bool
    made_at: datetime


class ScanReview(BaseModel):
    review_id: int
    verdict: Verdict
    reviewer: str
    comment: str | None
    prediction_id: int | None
    reviewed_at: datetime
    retracted_at: datetime | None


class StateTransition(BaseModel):
    from_state: State | None
    to_state: State
    at: datetime
    by: str
    detail: str | None


class ScanDetail(ScanSummary):
    """A scan with its predictions, verdicts and state transitions.

    The predictions of a scan that is reviewed blind are left out until the reader's verdict.
    """

    predictions: list[ScanPrediction]
    reviews: list[ScanReview] = Field(description="the oldest first, including retracted verdicts")
    events: list[StateTransition] = Field(description="the newest first")
    latest_review: int = Field(description="newest review that is not retracted, for `expected_latest`; 0: none")


class NewReview(BaseModel):
    """A verdict to record."""

    verdict: Verdict
    comment: str | None = Field(None, max_length=MAX_COMMENT_LENGTH)
    prediction_id: Id | None = Field(None, description="prediction that the reader saw; null: the current one")
    expected_latest: Annotated[int, Field(ge=0, le=LARGEST_ID)] | None = Field(
        None, description="`latest_review` that the reader saw; if it has changed: 409, and nothing is recorded"
    )


class RecordedReview(BaseModel):
    review_id: int
    scan_id: int = Field(description="scan of the verdict; for a duplicate, its original")
    verdict: Verdict


class ListChanges(BaseModel):
    """Numbers of changes since the moment `since`."""

    entered: int = Field(description="scans that have entered the worklist and wait for a reader")
    reviewed: int = Field(description="scans with a new verdict")
    now: str = Field(description="the current moment, for `since` in the next request")


def problem_responses(**sentences: str) -> dict[int | str, dict[str, Any]]:
    """Return {status: error response} for a route's OpenAPI description; `s404="..."` describes status 404."""
    content = {"application/problem+json": {"schema": ProblemDetails.model_json_schema()}}
    return {int(status[1:]): {"description": text, "content": content} for status, text in sentences.items()}
