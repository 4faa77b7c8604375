"""The overview page: throughput, waiting scans, health of components, and agreement of readers with the model."""

from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from sqlalchemy import Connection
from starlette.responses import Response

from db.health import heartbeats, source_silence
from db.ledger import queries
from db.registry import model_registry
from db.session import Database
from db.states import State
from db.worklist import statistics, worklist
from db.worklist.statistics import Interval
from db.worklist.worklist import Filters
from pneumowatch.settings import Settings
from review.access.auth import Reader
from review.pages import charts
from review.pages.charts import Chart
from review.pages.worklist import reading_cap
from review.templating import jinja_environment, render_page

router = APIRouter(include_in_schema=False)
THROUGHPUT_HOURS: Final = 24


class Period(IntEnum):
    """Period of the overview, in days."""

    WEEK = 7
    MONTH = 30
    QUARTER = 90


@router.get("/overview")
def overview_page(request: Request, user: Reader, days: Annotated[Period, Query()] = Period.MONTH) -> Response:
    settings: Settings = request.app.state.settings
    database: Database = request.app.state.database
    now, min_silence = datetime.now(UTC), timedelta(minutes=settings.silence_minutes)

    def read(connection: Connection) -> dict[str, Any]:
        oldest = queries.oldest_waiting(connection)
        return {
            "waiting": queries.count_waiting(connection),
            "oldest": oldest and (now - oldest).total_seconds(),
            "to_read": worklist.count_scans(connection, Filters(), user.name),
            "late": worklist.count_late(connection, reading_cap(settings)),
            "champion": model_registry.champion_version(connection),
            "by_hour": statistics.finished_by_hour(connection, THROUGHPUT_HOURS),
            "by_day": statistics.counts_by_day(connection, days),
            "sources": statistics.recent_counts_by_source(connection, days),
            "agreement": statistics.agreement(connection, days),
            "disagreement": statistics.disagreement(connection, days),
            "components": heartbeats.readiness(connection, settings.lease_seconds).components,
            "source_health": source_silence.assess_sources(connection, now, settings.silence_factor, min_silence),
        }

    found = database.read(read)
    drawn = [_throughput_chart(found.pop("by_hour")), *_daily_charts(found.pop("by_day"))]
    return render_page(
        request,
        "overview.html",
        **found,
        charts=drawn,
        days=days,
        choices=list(Period),
        states=list(State),
        cap=reading_cap(settings),
        share=settings.sample_unflagged,
    )


def _throughput_chart(by_hour: list[tuple[datetime, int]]) -> Chart:
    named = [(f"{begin.astimezone():%H:%M}", float(number)) for begin, number in by_hour]
    return charts.bar_chart(f"Scans finished, by the hour, last {THROUGHPUT_HOURS} hours", named, _format_count)


def _daily_charts(by_day: list[statistics.Day]) -> list[Chart]:
    arrived = [(f"{one.day:%d %b}", float(one.classified)) for one in by_day]
    rate = [(f"{one.day:%d %b}", one.flagged / one.classified if one.classified else None) for one in by_day]
    return [
        charts.bar_chart("Scans with a result, by the day they arrived", arrived, _format_count),
        charts.bar_chart("Share of them that is flagged", rate, _format_share, top=1.0),
    ]


def _format_count(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def _format_share(value: float) -> str:
    return f"{100 * value:.0f} %"


def format_interval(of: Interval | None) -> str:
    """Format a share with its interval: `94.0 % (88.0 to 97.0 %)`; None is `not measurable`."""
    if of is None:
        return "not measurable"
    return f"{100 * of.value:.1f} % ({100 * of.low:.1f} to {100 * of.high:.1f} %)"


def format_seconds(length: float) -> str:
    """Format a duration in seconds, rounded down: `50 s`, `12 min`, `5 h`, `3 d`."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if length >= size:
            return f"{length // size:.0f} {unit}"
    return f"{max(length, 0):.0f} s"


jinja_environment().filters.update({"interval": format_interval, "seconds": format_seconds})
