"""The hours of each source, as arrivals note them."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from books import Book, at_once, seen
from sqlalchemy import select

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


def hours(book: Book) -> list[tuple[Any, ...]]:
    statement = select(*COLUMNS).order_by(SOURCE_HOURS.c.source, SOURCE_HOURS.c.hour)
    return [tuple(row) for row in book.database.read(lambda c: c.execute(statement).all())]


def note(book: Book, sources: Sequence[str], at: datetime) -> None:
    book.database.write(lambda c: source_hours.record_arrivals(c, sources, at))


def test_films_are_noted_by_source_and_hour(book: Book) -> None:
    note(book, ["er", "ward", "er"], BEGIN)
    note(book, ["er"], BEGIN + timedelta(minutes=10))
    note(book, ["er"], BEGIN + timedelta(minutes=12))
    note(book, ["er"], BEGIN + timedelta(minutes=40))
    note(book, [], BEGIN)
    nine, ten = (BEGIN.replace(hour=hour, minute=0) for hour in (9, 10))
    later = BEGIN + timedelta(minutes=40)
    assert hours(book) == [
        ("er", nine, 4, BEGIN, BEGIN + timedelta(minutes=12), 600),
        ("er", ten, 1, later, later, 0),
        ("ward", nine, 1, BEGIN, BEGIN, 0),
    ]


def test_arrivals_note_what_is_new_and_nothing_twice(book: Book) -> None:
    book.arrive(seen("1"), seen("2"), seen("3", inbox="er"))
    book.arrive(seen("1"), seen("2"))
    assert [(source, images) for source, _, images, *_ in hours(book)] == [("er", 1), ("inbox", 2)]


def test_two_watchers_at_once(book: Book) -> None:
    files = [seen(f"{number}", inbox="er" if number % 2 else "inbox") for number in range(40)]
    at_once(lambda: book.arrive(*files), lambda: book.arrive(*files), lambda: book.arrive(*reversed(files)))
    assert {source for source, *_ in hours(book)} == {"er", "inbox"}


def test_old_hours_are_forgotten(book: Book) -> None:
    note(book, ["er"], BEGIN)
    note(book, ["er"], BEGIN + source_hours.SILENCE_HISTORY + timedelta(hours=1))
    assert len(hours(book)) == 1


def test_a_clock_that_was_set_back(book: Book) -> None:
    note(book, ["er"], BEGIN)
    note(book, ["er"], BEGIN - timedelta(minutes=5))
    ((_, _, images, first, last, gap),) = hours(book)
    assert (images, first, last, gap) == (2, BEGIN - timedelta(minutes=5), BEGIN, 0)


def test_silences_of_every_source(book: Book) -> None:
    now = transitions.utc_now()
    for ago in range(20 * 24, 0, -1):
        note(book, ["er"] if ago < 5 * 24 else ["er", "ward"], now - timedelta(hours=ago))
    found = book.database.read(lambda c: source_silence.assess_sources(c, now, 2.0, timedelta(hours=1)))
    assert [(one.source, one.status) for one in found] == [("er", SourceStatus.HEALTHY), ("ward", SourceStatus.SILENT)]
    assert found[1].seconds == pytest.approx(5 * 86400, abs=1)
