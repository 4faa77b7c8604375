"""Is a source silent for longer than usual? Told by its own history, so that nights and weekends alarm nobody.

How long ago its last film came is held against how long ago the last one had come on the same weekday of the last four
weeks at this time, an hour earlier or later: a source that sends nothing at night is as silent on every night, and one
whose first film comes at eight is missed by half past nine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import groupby, pairwise
from typing import Any, Final

from sqlalchemy import Connection, select

from db.ledger.source_hours import SILENCE_HISTORY, SOURCE_HOURS, WEEKS
from pneumowatch.durations import format_duration

TIME_TOLERANCE: Final = timedelta(hours=1)
MIN_WEEKS: Final = 2  # weeks without which nothing can be told
OUTLIER_FACTOR: Final = 4  # times as long as in any other of these weeks


class SourceStatus(StrEnum):
    HEALTHY = "healthy"
    SILENT = "silent"
    UNKNOWN = "unknown"  # not enough history


@dataclass(frozen=True)
class Gap:
    """Between two films of a source."""

    start: datetime
    end: datetime


@dataclass(frozen=True)
class SourceHealth:
    """`seconds` since the last film of the source; `usual_seconds` at this time of the week, None where unknown."""

    source: str
    status: SourceStatus
    seconds: float
    usual_seconds: float | None
    sentence: str


def assess_sources(connection: Connection, at: datetime, factor: float, minimum: timedelta) -> list[SourceHealth]:
    """Of each source that sent films in the last weeks, by name."""
    rows = connection.execute(
        select(SOURCE_HOURS)
        .where(SOURCE_HOURS.c.hour >= at - SILENCE_HISTORY)
        .order_by(SOURCE_HOURS.c.source, SOURCE_HOURS.c.hour)
    ).all()
    grouped = groupby(rows, key=lambda row: row.source)
    return [assess_source(source, gaps(list(hours), at), at, factor, minimum) for source, hours in grouped]


def gaps(hours: Sequence[Any], at: datetime) -> list[Gap]:
    """The longest gap within each hour, and those from hour to hour, the last one still going on at `at`. `hours`: rows
    of one source, the oldest first, at least one."""
    within = [Gap(one.first_at, one.first_at + timedelta(seconds=one.longest_gap)) for one in hours]
    between = [Gap(one.last_at, other.first_at) for one, other in pairwise(hours)]
    return [*sorted(within + between, key=lambda gap: gap.start), Gap(hours[-1].last_at, max(at, hours[-1].last_at))]


def assess_source(source: str, history: Sequence[Gap], at: datetime, factor: float, minimum: timedelta) -> SourceHealth:
    """`history`: its gaps, the last of them the present silence. Alarms beyond both `minimum` and `factor` times what
    is usual."""
    *before, now = history
    silence = now.end - now.start
    usual = _usual_seconds(before, at)
    if usual is None:
        sentence = (
            f"last film {format_duration(silence.total_seconds())} ago; not enough history to say whether that is usual"
        )
        return SourceHealth(source, SourceStatus.UNKNOWN, silence.total_seconds(), None, sentence)
    sentence = f"last film {format_duration(silence.total_seconds())} ago; at this time of the week up to {format_duration(usual)} are usual"
    is_silent = silence > minimum and silence.total_seconds() > factor * usual
    if is_silent:
        sentence += ": see that the scanner, its share and the watcher are well"
    status = SourceStatus.SILENT if is_silent else SourceStatus.HEALTHY
    return SourceHealth(source, status, silence.total_seconds(), usual, sentence)


def _usual_seconds(history: Sequence[Gap], at: datetime) -> float | None:
    """Seconds since the last film at this time in the weeks before, at most; but for one that stands out, as a holiday
    or an outage must not hide the next one. None where there are too few weeks."""
    known_since = min((gap.start for gap in history), default=at)
    moments = [_weeks_before(at, weeks) for weeks in range(1, WEEKS + 1)]
    intervals = sorted(_longest_wait(history, moment) for moment in moments if moment - TIME_TOLERANCE >= known_since)
    if len(intervals) < MIN_WEEKS:
        return None
    return (
        intervals[-2]
        if len(intervals) > MIN_WEEKS and intervals[-1] > OUTLIER_FACTOR * intervals[-2]
        else intervals[-1]
    )


def _weeks_before(at: datetime, weeks: int) -> datetime:
    """The same time by a local clock, whatever summer time did in between."""
    local = at.astimezone()
    return datetime.combine(local.date() - timedelta(weeks=weeks), local.time()).astimezone(UTC)


def _longest_wait(history: Sequence[Gap], moment: datetime) -> float:
    """How long no film had come, at most, around a moment."""
    begin, end = moment - TIME_TOLERANCE, moment + TIME_TOLERANCE
    intervals = (
        (min(gap.end, end) - gap.start).total_seconds() for gap in history if gap.start < end and gap.end > begin
    )
    return max(intervals, default=0.0)
