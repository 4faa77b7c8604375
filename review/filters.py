"""Query parameters that select and filter a list, shared by pages, the API and exports.

None of them names a patient: searches are sent by POST, so that URLs and logs hold no names (`review.pages.worklist`).
"""

from datetime import date, datetime, time, timedelta
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlencode

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from db.states import State, Verdict
from db.worklist.worklist import Cursor, Filters, Listing

VALID_YEARS: Final = range(1970, 2200)  # in filters; not every database handles other years
MAX_PAGE_SIZE: Final = 500  # lines
DEFAULT_PAGE_SIZE: Final = 50


def _empty_as_none(given: Any) -> Any:
    """Turn an empty string into None: a form also sends the fields that were left empty."""
    return None if given == "" else given


def _valid_year(given: date | datetime | None) -> date | datetime | None:
    if given is not None and given.year not in VALID_YEARS:
        raise ValueError("the year is not plausible")
    return given


EmptyAsNone = BeforeValidator(_empty_as_none)
_Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Probability = Annotated[_Probability | None, EmptyAsNone]
_Code = Annotated[str, Field(pattern="^[a-z0-9_-]{1,64}$")]
Code = Annotated[_Code | None, EmptyAsNone]
# date comes first: otherwise a date would be parsed as its midnight
_DateOrTime = Annotated[date | datetime, Field(union_mode="left_to_right")]
DateOrTime = Annotated[_DateOrTime | None, EmptyAsNone, AfterValidator(_valid_year)]


class FilterQuery(BaseModel):
    """Query parameters that filter a list. A scan must meet all of them."""

    source: Code = Field(None, description="name of the inbox")
    since: DateOrTime = Field(None, description="arrived at or after this ISO 8601 date or time")
    until: DateOrTime = Field(None, description="arrived before this time, or up to the end of this date")
    state: Annotated[State | None, EmptyAsNone] = Field(None, description="state in the ledger")
    verdict: Annotated[Verdict | Literal["none"] | None, EmptyAsNone] = Field(
        None, description="newest verdict, or `none`"
    )
    caution: Code = Field(None, description="a caution, `any`, or `none`")
    at_least: Probability = Field(None, description="minimum probability; leaves out scans with a hidden result")
    at_most: Probability = Field(None, description="maximum probability; leaves out scans with a hidden result")

    def filters(self, listing: Listing) -> Filters:
        return Filters(
            listing=listing,
            source=self.source,
            since=_start_of(self.since),
            until=_end_of(self.until),
            state=self.state,
            verdict=self.verdict,
            caution=self.caution,
            at_least=self.at_least,
            at_most=self.at_most,
        )

    def query_string(self, **changes: object) -> str:
        """Return the query string of these parameters, with its `?`; empty if all have their default values."""
        query = self.model_dump(mode="json", exclude_defaults=True) | changes
        written = urlencode({name: value for name, value in query.items() if value is not None})
        return f"?{written}" if written else ""


class PageQuery(FilterQuery):
    """Query parameters that filter a list and select one page of it."""

    after: str | None = Field(
        None, max_length=64, description="`next` of the previous page; without it, the first page"
    )
    limit: int = Field(DEFAULT_PAGE_SIZE, ge=1, le=MAX_PAGE_SIZE, description="scans per page")

    @property
    def cursor(self) -> Cursor | None:
        """The parsed `after`; None for the first page. Raises `db.worklist.worklist.BadCursor`."""
        return Cursor.parse(self.after) if self.after else None


class ListQuery(PageQuery):
    """Query parameters that select a list, filter it and select one page of it."""

    list: Listing = Field(Listing.TO_READ, description="scans to read, flagged scans, or all scans")

    @property
    def selected(self) -> Filters:
        return self.filters(self.list)


def _start_of(given: date | datetime | None) -> datetime | None:
    """Return the start as a time with a zone. Without one, the server's time zone applies: it is the department's."""
    if given is None:
        return None
    return given.astimezone() if isinstance(given, datetime) else datetime.combine(given, time()).astimezone()


def _end_of(given: date | datetime | None) -> datetime | None:
    if given is None or isinstance(given, datetime):
        return _start_of(given)
    return _start_of(given + timedelta(days=1))
