"""Which list is asked for, as it stands in the address: of a page, of the API, and of an export alike.

Nothing in it names a patient: what is searched for by name is sent by POST (`review.pages.worklist`).
"""

from datetime import date, datetime, time, timedelta
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlencode

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from db.states import State, Verdict
from db.worklist.worklist import Cursor, Filters, Listing

VALID_YEARS: Final = range(1970, 2200)  # of times that are asked for; databases know no others for sure
MAX_PAGE_SIZE: Final = 500  # lines
DEFAULT_PAGE_SIZE: Final = 50


def _empty_as_none(given: Any) -> Any:
    """A form sends the fields that were left empty, too."""
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
# a date first: else each would be taken for its midnight
_DateOrTime = Annotated[date | datetime, Field(union_mode="left_to_right")]
DateOrTime = Annotated[_DateOrTime | None, EmptyAsNone, AfterValidator(_valid_year)]


class FilterQuery(BaseModel):
    """Query parameters of a list: all that is given holds at once."""

    source: Code = Field(None, description="the inbox they came from")
    since: DateOrTime = Field(None, description="arrived then or later: a date, or a time, of ISO 8601")
    until: DateOrTime = Field(None, description="arrived before that time, or on that date or earlier")
    state: Annotated[State | None, EmptyAsNone] = Field(None, description="where they stand in the ledger")
    verdict: Annotated[Verdict | Literal["none"] | None, EmptyAsNone] = Field(None, description="a verdict, or none")
    caution: Code = Field(None, description="a caution, any, or none")
    at_least: Probability = Field(None, description="of the probability; leaves out scans whose result is hidden")
    at_most: Probability = Field(None, description="of the probability; leaves out scans whose result is hidden")

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
        """As the part of an address after its path: with `?`, or empty."""
        query = self.model_dump(mode="json", exclude_defaults=True) | changes
        written = urlencode({name: value for name, value in query.items() if value is not None})
        return f"?{written}" if written else ""


class PageQuery(FilterQuery):
    """... and which page of it."""

    after: str | None = Field(None, max_length=64, description="where the page begins: `next` of the page before")
    limit: int = Field(DEFAULT_PAGE_SIZE, ge=1, le=MAX_PAGE_SIZE, description="lines of a page")

    @property
    def cursor(self) -> Cursor | None:
        """Raises `db.worklist.worklist.BadCursor`."""
        return Cursor.parse(self.after) if self.after else None


class ListQuery(PageQuery):
    """... and which list."""

    list: Listing = Field(Listing.TO_READ, description="what waits for a reader, what is flagged, or every scan")

    @property
    def selected(self) -> Filters:
        return self.filters(self.list)


def _start_of(given: date | datetime | None) -> datetime | None:
    """Times without a zone are of the server's, which is the department's."""
    if given is None:
        return None
    return given.astimezone() if isinstance(given, datetime) else datetime.combine(given, time()).astimezone()


def _end_of(given: date | datetime | None) -> datetime | None:
    if given is None or isinstance(given, datetime):
        return _start_of(given)
    return _start_of(given + timedelta(days=1))
