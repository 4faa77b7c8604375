"""Detect sources that are silent for longer than usual, by their own history: nights and weekends raise no alarm.

The time since the last image is compared with the time since the last image on the same weekday of the last four weeks,
at this time, an hour earlier or later. A source that sends nothing at night is as silent on every night. One whose
first image arrives at eight is reported by half past nine.
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
MIN_WEEKS: Final = 2  # weeks of history without which the status is unknown
OUTLIER_FACTOR: Final = 4  # times as long as in any other week: ignored


class SourceStatus(StrEnum):
    HEALTHY = "healthy"
    SILENT = "silent"
    UNKNOWN = "unknown"  # not enough history


@dataclass(frozen=True)
class Gap:
    """The time between two images of a source."""

    start: datetime
    end: datetime


@dataclass(frozen=True)
class SourceHealth:
    """`seconds` since the last image of the source; `usual_seconds` at this time of the week, None if unknown."""

    source: str
    status: SourceStatus
    seconds: float
    usual_seconds: float | None
    sentence: str


def assess_sources(connection: Connection, at: datetime, factor: float, minimum: timedelta) -> list[SourceHealth]:
    """Judge the silence of each source that sent images in the last weeks, sorted by name."""
    rows = connection.execute(
        select(SOURCE_HOURS)
        .where(SOURCE_HOURS.c.hour >= at - SILENCE_HISTORY)
        .order_by(SOURCE_HOURS.c.source, SOURCE_HOURS.c.hour)
    ).all()
    grouped = groupby(rows, key=lambda row: row.source)
    return [assess_source(source, gaps(list(hours), at), at, factor, minimum) for source, hours in grouped]


def gaps(hours: Sequence[Any], at: datetime) -> list[Gap]:
    """Return the longest gap within each hour, and those from hour to hour; the last one still lasts at `at`.

    `hours`: rows of one source, the oldest first, at least one.
    """
    within = [Gap(one.first_at, one.first_at + timedelta(seconds=one.longest_gap)) for one in hours]
    between = [Gap(one.last_at, other.first_at) for one, other in pairwise(hours)]
    return [*sorted(within + between, key=lambda gap: gap.start), Gap(hours[-1].last_at, max(at, hours[-1].last_at))]


def assess_source(source: str, history: Sequence[Gap], at: datetime, factor: float, minimum: timedelta) -> SourceHealth:
    """Judge the silence of one source: an alarm if it is longer than `minimum` and than `factor` times the usual.

    `history`: its gaps, the last of them the present silence.
    """
    *before, now = history
    silence = now.end - now.start
    usual = _usual_seconds(before, at)
    if usual is None:
        sentence = (
            f"last image {format_duration(silence.total_seconds())} ago; "
            "not enough history to tell whether that is usual"
        )
        return SourceHealth(source, SourceStatus.UNKNOWN, silence.total_seconds(), None, sentence)
    sentence = (
        f"last image {format_duration(silence.total_seconds())} ago; "
        f"at this time of the week up to {format_duration(usual)} are usual"
    )
    is_silent = silence > minimum and silence.total_seconds() > factor * usual
    if is_silent:
        sentence += ": check the scanner, its share and the watcher"
    status = SourceStatus.SILENT if is_silent else SourceStatus.HEALTHY
    return SourceHealth(source, status, silence.total_seconds(), usual, sentence)


def _usual_seconds(history: Sequence[Gap], at: datetime) -> float | None:
    """Return the longest time since the last image at this time in the weeks before, in seconds.

    An outlier is ignored, as a holiday or an outage must not hide the next one. Returns None with too few weeks.
    """
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
    """Return the same local time some weeks before, whatever summer time did in between."""
    local = at.astimezone()
    return datetime.combine(local.date() - timedelta(weeks=weeks), local.time()).astimezone(UTC)


def _longest_wait(history: Sequence[Gap], moment: datetime) -> float:
    """Return the longest time without an image around a moment, in seconds."""
    begin, end = moment - TIME_TOLERANCE, moment + TIME_TOLERANCE
    intervals = (
        (min(gap.end, end) - gap.start).total_seconds() for gap in history if gap.start < end and gap.end > begin
    )
    return max(intervals, default=0.0)
