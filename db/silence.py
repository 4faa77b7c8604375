"""Is a source silent for longer than usual? Told by its own history, so that nights and weekends alarm nobody.

How long ago its last film came is held against how long ago the last one had come on the same weekday of the last four
weeks at this time, an hour earlier or later: a source that sends nothing at night is as silent on every night, and one
whose first film comes at eight is missed by half past nine.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import groupby, pairwise
from typing import Any, Final

from sqlalchemy import Connection, delete, select, tuple_

from db.dialect import replace_rows
from db.models import SourceHour
from pneumowatch.durations import said

HOURS: Final[Any] = SourceHour.__table__
WEEKS: Final = 4  # looked back
AROUND: Final = timedelta(hours=1)
ENOUGH: Final = 2  # weeks without which nothing can be told
OUTLIER: Final = 4  # times as long as in any other of these weeks
KEPT: Final = timedelta(weeks=WEEKS + 2)


class Verdict(StrEnum):
    WELL = "well"
    SILENT = "silent"
    UNKNOWN = "unknown"  # not enough history


@dataclass(frozen=True)
class Gap:
    """Between two films of a source."""

    start: datetime
    end: datetime


@dataclass(frozen=True)
class Silence:
    """`seconds` since the last film of the source; `usual_seconds` at this time of the week, None where unknown."""

    source: str
    verdict: Verdict
    seconds: float
    usual_seconds: float | None
    sentence: str


def note(connection: Connection, sources: Iterable[str], at: datetime) -> None:
    """Films of these sources (each named once a film) have come at that moment."""
    films = Counter(sources)
    hour = at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    keys = [(source, hour) for source in sorted(films)]  # in one order, so that two watchers never deadlock
    here = tuple_(HOURS.c.source, HOURS.c.hour).in_(keys)
    known = {row.source: row for row in connection.execute(select(HOURS).where(here).with_for_update())}
    if keys:
        replace_rows(
            connection, HOURS, [_counted(source, hour, films[source], at, known.get(source)) for source, _ in keys]
        )
    if begun := [source for source in films if source not in known]:
        connection.execute(delete(HOURS).where(HOURS.c.source.in_(begun), HOURS.c.hour < hour - KEPT))


def _counted(source: str, hour: datetime, films: int, at: datetime, known: Any) -> dict[str, Any]:
    first, last, longest = (known.first_at, known.last_at, known.longest_gap) if known else (at, at, 0.0)
    return {
        "source": source,
        "hour": hour,
        "films": films + (known.films if known else 0),
        "first_at": min(first, at),
        "last_at": max(last, at),
        "longest_gap": max(longest, (at - last).total_seconds()),
    }


def silences(connection: Connection, at: datetime, factor: float, minimum: timedelta) -> list[Silence]:
    """Of each source that sent films in the last weeks, by name."""
    rows = connection.execute(
        select(HOURS).where(HOURS.c.hour >= at - KEPT).order_by(HOURS.c.source, HOURS.c.hour)
    ).all()
    grouped = groupby(rows, key=lambda row: row.source)
    return [judge(source, gaps(list(hours), at), at, factor, minimum) for source, hours in grouped]


def gaps(hours: Sequence[Any], at: datetime) -> list[Gap]:
    """The longest gap within each hour, and those from hour to hour, the last one still going on at `at`. `hours`: rows
    of one source, the oldest first, at least one."""
    within = [Gap(one.first_at, one.first_at + timedelta(seconds=one.longest_gap)) for one in hours]
    between = [Gap(one.last_at, other.first_at) for one, other in pairwise(hours)]
    return [*sorted(within + between, key=lambda gap: gap.start), Gap(hours[-1].last_at, max(at, hours[-1].last_at))]


def judge(source: str, history: Sequence[Gap], at: datetime, factor: float, minimum: timedelta) -> Silence:
    """`history`: its gaps, the last of them the present silence. Alarms beyond both `minimum` and `factor` times what
    is usual."""
    *before, now = history
    silent = now.end - now.start
    usual = _usual(before, at)
    if usual is None:
        sentence = f"last film {said(silent.total_seconds())} ago; not enough history to say whether that is usual"
        return Silence(source, Verdict.UNKNOWN, silent.total_seconds(), None, sentence)
    sentence = f"last film {said(silent.total_seconds())} ago; at this time of the week up to {said(usual)} are usual"
    alarm = silent > minimum and silent.total_seconds() > factor * usual
    if alarm:
        sentence += ": see that the scanner, its share and the watcher are well"
    verdict = Verdict.SILENT if alarm else Verdict.WELL
    return Silence(source, verdict, silent.total_seconds(), usual, sentence)


def _usual(history: Sequence[Gap], at: datetime) -> float | None:
    """Seconds since the last film at this time in the weeks before, at most; but for one that stands out, as a holiday
    or an outage must not hide the next one. None where there are too few weeks."""
    known_since = min((gap.start for gap in history), default=at)
    moments = [_weeks_before(at, weeks) for weeks in range(1, WEEKS + 1)]
    waits = sorted(_longest_wait(history, moment) for moment in moments if moment - AROUND >= known_since)
    if len(waits) < ENOUGH:
        return None
    return waits[-2] if len(waits) > ENOUGH and waits[-1] > OUTLIER * waits[-2] else waits[-1]


def _weeks_before(at: datetime, weeks: int) -> datetime:
    """The same time by a local clock, whatever summer time did in between."""
    local = at.astimezone()
    return datetime.combine(local.date() - timedelta(weeks=weeks), local.time()).astimezone(UTC)


def _longest_wait(history: Sequence[Gap], moment: datetime) -> float:
    """How long no film had come, at most, around a moment."""
    begin, end = moment - AROUND, moment + AROUND
    waits = ((min(gap.end, end) - gap.start).total_seconds() for gap in history if gap.start < end and gap.end > begin)
    return max(waits, default=0.0)
