"""What the API sends and takes, as JSON: the OpenAPI description is made of these."""

from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from db import LARGEST_ID
from db.states import State, Verdict

MAX_COMMENT_LENGTH: Final = 2000  # letters
HIDDEN_DESCRIPTION: Final = "of a scan that is read blind: null until the reader's verdict"
Id = Annotated[int, Field(ge=1, le=LARGEST_ID)]


class ProblemDetails(BaseModel):
    """RFC 9457."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str


class ScanSummary(BaseModel):
    """One scan, as the view `scan_ledger` has it."""

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
    hidden: bool = Field(description="whether probability and flag are hidden until the reader's verdict")
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
    images: int = Field(description="of its study, copies left out")


class ScanPage(BaseModel):
    """A page of a list."""

    scans: list[ScanSummary]
    next: str | None = Field(description="`after` of the next page; null: this is the last")
    count: int = Field(description="scans of the list; where `more` is true, there are more than it says")
    more: bool


class UnscoredGroup(BaseModel):
    why: str = Field(description="a reason of rejection, or the state")
    number: int


class UnscoredPage(BaseModel):
    """A page of what nobody has read."""

    scans: list[ScanSummary]
    next: int | None = Field(description="`before` of the next page; null: this is the last")
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
    """A scan with all that is known of it. The predictions of a scan that is read blind are left out until the reader's verdict."""

    predictions: list[ScanPrediction]
    reviews: list[ScanReview] = Field(description="the oldest first; what was taken back is there, too")
    events: list[StateTransition] = Field(description="the newest first")
    latest_review: int = Field(description="the newest review that stands: `expected_latest` of the next; 0: none")


class NewReview(BaseModel):
    """A verdict."""

    verdict: Verdict
    comment: str | None = Field(None, max_length=MAX_COMMENT_LENGTH)
    prediction_id: Id | None = Field(None, description="that its reader saw; null: the current one")
    expected_latest: Annotated[int, Field(ge=0, le=LARGEST_ID)] | None = Field(
        None, description="`latest_review` that the reader saw; another one now: 409, and nothing is recorded"
    )


class RecordedReview(BaseModel):
    review_id: int
    scan_id: int = Field(description="what was judged: of a duplicate, its original")
    verdict: Verdict


class ListChanges(BaseModel):
    """Since the moment that was named."""

    entered: int = Field(description="scans that wait for a reader now")
    judged: int = Field(description="scans with a new verdict")
    now: str = Field(description="this moment, for the next question")


def problem_responses(**sentences: str) -> dict[int | str, dict[str, Any]]:
    """Responses of a route, for its description: {status: what it means}, given as `s404="..."`."""
    content = {"application/problem+json": {"schema": ProblemDetails.model_json_schema()}}
    return {int(status[1:]): {"description": text, "content": content} for status, text in sentences.items()}
