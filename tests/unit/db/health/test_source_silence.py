"""Silence of a source, by its own history."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

import pytest

from db.health.source_silence import SourceHealth, SourceStatus, assess_source, gaps

MONDAY = datetime.combine(date(2026, 6, 1), time()).astimezone()  # by the local clock
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


@dataclass
class Hour:
    """One row of `source_hours`."""

    first_at: datetime
    last_at: datetime
    longest_gap: float


def hours(images: list[datetime]) -> list[Hour]:
    found: dict[datetime, Hour] = {}
    for at in images:
        hour = found.setdefault(at.replace(minute=0, second=0, microsecond=0), Hour(at, at, 0))
        hour.longest_gap = max(hour.longest_gap, (at - hour.last_at).total_seconds())
        hour.last_at = at
    return list(found.values())


def asked(images: list[datetime], at: datetime) -> SourceHealth:
    return assess_source("ward", gaps(hours([image for image in images if image <= at]), at), at, 2.0, HOUR)


def department(seed: int, weeks: int) -> list[datetime]:
    """Return arrivals about every three minutes on weekdays from 8 to 18, hourly at night, three a day on weekends."""
    draw = random.Random(seed)
    return sorted(image for day in range(7 * weeks) for image in _day(draw, MONDAY + timedelta(days=day)))


def _day(draw: random.Random, day: datetime) -> Iterator[datetime]:
    for hour in range(24):
        weekend, busy = day.weekday() >= 5, 8 <= hour < 18
        rate = (0.3 if busy else 0.02) if weekend else (20 if busy else 0.5)
        at = day + hour * HOUR
        while (at := at + draw.expovariate(rate) * HOUR) < day + (hour + 1) * HOUR:
            yield at


@pytest.fixture(scope="module")
def images() -> list[datetime]:
    return department(1, 10)


def test_a_working_day_is_missed_within_an_hour_and_a_half(images: list[datetime]) -> None:
    out = MONDAY + timedelta(weeks=6, days=1, hours=11)  # a Tuesday
    before = [image for image in images if image < out]
    assert asked(before, out + HOUR - 5 * MINUTE).status is SourceStatus.HEALTHY
    found = asked(before, out + 90 * MINUTE)
    assert found.status is SourceStatus.SILENT
    assert "check the scanner" in found.sentence


def test_an_outage_in_the_evening_is_missed_in_the_morning(images: list[datetime]) -> None:
    out = MONDAY + timedelta(weeks=6, days=1, hours=18)
    before = [image for image in images if image < out]
    morning = MONDAY + timedelta(weeks=6, days=2, hours=9, minutes=30)
    assert asked(before, morning).status is SourceStatus.SILENT


def test_nights_and_weekends_alarm_rarely(images: list[datetime]) -> None:
    """Asked every half hour for five weeks: less than one false alarm a week, none by day."""
    every, alarms = hours(images), []
    for half in range(5 * 7 * 48):
        at = MONDAY + timedelta(weeks=5) + half * HOUR / 2
        begun = [hour for hour in every if hour.first_at <= at]
        if begun[-1].last_at > at:  # in the middle of its hour
            begun[-1:] = hours([image for image in images if begun[-1].first_at <= image <= at])
        if assess_source("ward", gaps(begun, at), at, 2.0, HOUR).status is SourceStatus.SILENT:
            alarms.append(at)
    separate = [at for at in alarms if at - HOUR / 2 not in alarms]
    assert len(separate) < 5, separate
    assert not [at for at in alarms if at.weekday() < 5 and 9 <= at.hour < 18]


def test_a_source_that_comes_once_a_day_is_missed_the_same_day() -> None:
    images = [MONDAY + timedelta(days=day, hours=6, minutes=7 * (day % 5)) for day in range(30)]
    next_day = MONDAY + timedelta(days=30, hours=6)
    assert asked(images, next_day).status is SourceStatus.HEALTHY
    assert asked(images, next_day + HOUR).status is SourceStatus.HEALTHY
    assert asked(images, next_day + 2 * HOUR).status is SourceStatus.SILENT


def test_one_holiday_does_not_hide_the_next() -> None:
    holiday = MONDAY + timedelta(weeks=3)
    images = [image for image in department(2, 6) if image.date() != holiday.date()]
    out = MONDAY + timedelta(weeks=5, hours=10)
    assert asked([image for image in images if image < out], out + 2 * HOUR).status is SourceStatus.SILENT


@pytest.mark.parametrize("days", [0, 3, 10])
def test_little_history_says_so(images: list[datetime], days: int) -> None:
    begin = images[0]
    few = [image for image in images if image <= begin + timedelta(days=days)]
    found = asked(few, begin + timedelta(days=days, hours=20))
    assert (found.status, found.usual_seconds) == (SourceStatus.UNKNOWN, None)
    assert "not enough history" in found.sentence


def test_the_clock_of_the_images_may_run_ahead(images: list[datetime]) -> None:
    found = assess_source("ward", gaps(hours(images), images[-1] - HOUR), images[-1] - HOUR, 2.0, HOUR)
    assert found.seconds == 0
    assert found.status is SourceStatus.HEALTHY
