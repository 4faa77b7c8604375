"""The overview: what comes in and goes out, whether anything waits, and how far readers and the model agree."""

from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from sqlalchemy import Connection
from starlette.responses import Response

from db import figures, heartbeats, registry, scans, silence, worklist
from db.figures import Interval
from db.session import Database
from db.states import State
from db.worklist import Filters
from pneumowatch.settings import Settings
from review import charts
from review.auth import Reader
from review.charts import Chart
from review.templating import environment, page
from review.worklist import reading_cap

router = APIRouter(include_in_schema=False)
HOURS: Final = 24


class Days(IntEnum):
    """That the overview looks back."""

    WEEK = 7
    MONTH = 30
    QUARTER = 90


@router.get("/overview")
def overview(request: Request, user: Reader, days: Annotated[Days, Query()] = Days.MONTH) -> Response:
    settings: Settings = request.app.state.settings
    database: Database = request.app.state.database
    now, quiet = datetime.now(UTC), timedelta(minutes=settings.silence_minutes)

    def read(connection: Connection) -> dict[str, Any]:
        oldest = scans.oldest_waiting(connection)
        return {
            "waiting": scans.waiting(connection),
            "oldest": oldest and (now - oldest).total_seconds(),
            "to_read": worklist.count(connection, Filters(), user.name),
            "late": worklist.late(connection, reading_cap(settings)),
            "champion": registry.champion(connection),
            "by_hour": figures.by_hour(connection, HOURS),
            "by_day": figures.by_day(connection, days),
            "sources": figures.by_source(connection, days),
            "agreement": figures.agreement(connection, days),
            "disagreement": figures.disagreement(connection, days),
            "parts": heartbeats.readiness(connection, settings.lease_seconds).parts,
            "silences": silence.silences(connection, now, settings.silence_factor, quiet),
        }

    found = database.read(read)
    drawn = [_throughput(found.pop("by_hour")), *_by_day(found.pop("by_day"))]
    return page(
        request,
        "overview.html",
        **found,
        charts=drawn,
        days=days,
        choices=list(Days),
        states=list(State),
        cap=reading_cap(settings),
        share=settings.sample_unflagged,
    )


def _throughput(by_hour: list[tuple[datetime, int]]) -> Chart:
    named = [(f"{begin.astimezone():%H:%M}", float(films)) for begin, films in by_hour]
    return charts.bars(f"Films finished, by the hour, last {HOURS} hours", named, _films)


def _by_day(by_day: list[figures.Day]) -> list[Chart]:
    arrived = [(f"{one.day:%d %b}", float(one.classified)) for one in by_day]
    rate = [(f"{one.day:%d %b}", one.flagged / one.classified if one.classified else None) for one in by_day]
    return [
        charts.bars("Films with a result, by the day they arrived", arrived, _films),
        charts.bars("Share of them that is flagged", rate, _share, top=1.0),
    ]


def _films(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"


def interval(of: Interval | None) -> str:
    """`94 % (88 to 97 %)`."""
    if of is None:
        return "not measurable"
    return f"{100 * of.value:.1f} % ({100 * of.low:.1f} to {100 * of.high:.1f} %)"


def seconds(length: float) -> str:
    """`50 s`, `12 min`, `5 h`, `3 d`."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if length >= size:
            return f"{length // size:.0f} {unit}"
    return f"{max(length, 0):.0f} s"


environment().filters.update({"interval": interval, "seconds": seconds})
