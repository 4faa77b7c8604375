"""The counts of arrivals per source and hour."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select
from support.ledger_driver import LedgerDriver, file_version, run_concurrently

from db.health import source_silence
from db.health.source_silence import SourceStatus
from db.ledger import source_hours, transitions
from db.ledger.source_hours import SOURCE_HOURS

BEGIN = datetime(2026, 6, 1, 9, 30, tzinfo=UTC)
COLUMNS = [
    SOURCE_HOURS.c.source,
    SOURCE_HOURS.c.hour,
    SOURCE_HOURS.c.images,
    SOURCE_HOURS.c.first_at,
    SOURCE_HOURS.c.last_at,
    SOURCE_HOURS.c.longest_gap,
]


def hours(ledger: LedgerDriver) -> list[tuple[Any, ...]]:
    statement = select(*COLUMNS).order_by(SOURCE_HOURS.c.source, SOURCE_HOURS.c.hour)
    return [tuple(row) for row in ledger.database.read(lambda c: c.execute(statement).all())]


def note(ledger: LedgerDriver, sources: Sequence[str], at: datetime) -> None:
    ledger.database.write(lambda c: source_hours.record_arrivals(c, sources, at))


def test_images_are_noted_by_source_and_hour(ledger: LedgerDriver) -> None:
    note(ledger, ["er", "ward", "er"], BEGIN)
    note(ledger, ["er"], BEGIN + timedelta(minutes=10))
    note(ledger, ["er"], BEGIN + timedelta(minutes=12))
    note(ledger, ["er"], BEGIN + timedelta(minutes=40))
    note(ledger, [], BEGIN)
    nine, ten = (BEGIN.replace(hour=hour, minute=0) for hour in (9, 10))
    later = BEGIN + timedelta(minutes=40)
    assert hours(ledger) == [
        ("er", nine, 4, BEGIN, BEGIN + timedelta(minutes=12), 600),
        ("er", ten, 1, later, later, 0),
        ("ward", nine, 1, BEGIN, BEGIN, 0),
    ]


def test_arrivals_note_what_is_new_and_nothing_twice(ledger: LedgerDriver) -> None:
    ledger.register(file_version("1"), file_version("2"), file_version("3", inbox="er"))
    ledger.register(file_version("1"), file_version("2"))
    assert [(source, images) for source, _, images, *_ in hours(ledger)] == [("er", 1), ("inbox", 2)]


def test_two_watchers_at_once(ledger: LedgerDriver) -> None:
    files = [file_version(f"{number}", inbox="er" if number % 2 else "inbox") for number in range(40)]
    run_concurrently(
        lambda: ledger.register(*files), lambda: ledger.register(*files), lambda: ledger.register(*reversed(files))
    )
    assert {source for source, *_ in hours(ledger)} == {"er", "inbox"}


def test_old_hours_are_forgotten(ledger: LedgerDriver) -> None:
    note(ledger, ["er"], BEGIN)
    note(ledger, ["er"], BEGIN + source_hours.SILENCE_HISTORY + timedelta(hours=1))
    assert len(hours(ledger)) == 1


def test_a_clock_that_was_set_back(ledger: LedgerDriver) -> None:
    note(ledger, ["er"], BEGIN)
    note(ledger, ["er"], BEGIN - timedelta(minutes=5))
    ((_, _, images, first, last, gap),) = hours(ledger)
    assert (images, first, last, gap) == (2, BEGIN - timedelta(minutes=5), BEGIN, 0)


def test_silences_of_every_source(ledger: LedgerDriver) -> None:
    now = transitions.utc_now()
    for ago in range(20 * 24, 0, -1):
        note(ledger, ["er"] if ago < 5 * 24 else ["er", "ward"], now - timedelta(hours=ago))
    found = ledger.database.read(lambda c: source_silence.assess_sources(c, now, 2.0, timedelta(hours=1)))
    assert [(one.source, one.status) for one in found] == [("er", SourceStatus.HEALTHY), ("ward", SourceStatus.SILENT)]
    assert found[1].seconds == pytest.approx(5 * 86400, abs=1)
