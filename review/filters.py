"""Which list is asked for, as it stands in the address: of a page, of the API, and of an export alike.

Nothing in it names a patient: what is searched for by name is sent by POST (`review.worklist`).
"""

from datetime import date, datetime, time, timedelta
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlencode

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from db.states import State, Verdict
from db.worklist import Cursor, Filters, Listing

YEARS: Final = range(1970, 2200)  # of times that are asked for; databases know no others for sure
LONGEST_PAGE: Final = 500  # lines
PAGE: Final = 50


def _none_where_empty(given: Any) -> Any:
    """A form sends the fields that were left empty, too."""
    return None if given == "" else given


def _sensible(given: date | datetime | None) -> date | datetime | None:
    if given is not None and given.year not in YEARS:
        raise ValueError("the year is not one of films")
    return given


Empty = BeforeValidator(_none_where_empty)
_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Share = Annotated[_Share | None, Empty]
_Word = Annotated[str, Field(pattern="^[a-z0-9_-]{1,64}$")]
Word = Annotated[_Word | None, Empty]
# a date first: else each would be taken for its midnight
_Moment = Annotated[date | datetime, Field(union_mode="left_to_right")]
Moment = Annotated[_Moment | None, Empty, AfterValidator(_sensible)]


class Asked(BaseModel):
    """Query parameters of a list: all that is given holds at once."""

    source: Word = Field(None, description="the inbox they came from")
    since: Moment = Field(None, description="arrived then or later: a date, or a time, of ISO 8601")
    until: Moment = Field(None, description="arrived before that time, or on that date or earlier")
    state: Annotated[State | None, Empty] = Field(None, description="where they stand in the ledger")
    verdict: Annotated[Verdict | Literal["none"] | None, Empty] = Field(None, description="a verdict, or none")
    caution: Word = Field(None, description="a caution, any, or none")
    at_least: Share = Field(None, description="of the probability; leaves out films whose result is hidden")
    at_most: Share = Field(None, description="of the probability; leaves out films whose result is hidden")

    def filters(self, listing: Listing) -> Filters:
        return Filters(
            listing=listing,
            source=self.source,
            since=_beginning(self.since),
            until=_end(self.until),
            state=self.state,
            verdict=self.verdict,
            caution=self.caution,
            at_least=self.at_least,
            at_most=self.at_most,
        )

    def query(self, **changes: object) -> str:
        """As the part of an address after its path: with `?`, or empty."""
        asked = self.model_dump(mode="json", exclude_defaults=True) | changes
        written = urlencode({name: value for name, value in asked.items() if value is not None})
        return f"?{written}" if written else ""


class Paged(Asked):
    """... and which page of it."""

    after: str | None = Field(None, max_length=64, description="where the page begins: `next` of the page before")
    limit: int = Field(PAGE, ge=1, le=LONGEST_PAGE, description="lines of a page")

    @property
    def cursor(self) -> Cursor | None:
        """Raises `db.worklist.BadCursor`."""
        return Cursor.parse(self.after) if self.after else None


class Listed(Paged):
    """... and which list."""

    list: Listing = Field(Listing.TO_READ, description="what waits for a reader, what is flagged, or every scan")

    @property
    def chosen(self) -> Filters:
        return self.filters(self.list)


def _beginning(given: date | datetime | None) -> datetime | None:
    """Times without a zone are of the server's, which is the department's."""
    if given is None:
        return None
    return given.astimezone() if isinstance(given, datetime) else datetime.combine(given, time()).astimezone()


def _end(given: date | datetime | None) -> datetime | None:
    if given is None or isinstance(given, datetime):
        return _beginning(given)
    return _beginning(given + timedelta(days=1))
