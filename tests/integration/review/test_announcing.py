"""A film handed in is registered once, by whoever comes first, and read without waiting for it to settle."""

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from books import Book

from db import schema
from db.seen import SeenFile
from db.session import Database
from pneumowatch.errors import BrokerAway
from review.deliveries import PRIORITY, Delivery, announce


class Bell:
    """Of a broker that answers or not."""

    def __init__(self, away: bool = False) -> None:
        self.away = away
        self.rung: list[int] = []

    def ring(self, ids: list[int]) -> None:
        if self.away:
            raise BrokerAway("away")
        self.rung += ids


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    with closing(Database(f"sqlite:///{tmp_path / 'ledger.db'}")) as database:
        schema.upgrade(database)
        yield Book(database)


@pytest.fixture
def file(tmp_path: Path) -> SeenFile:
    with Delivery(tmp_path / "uploads", "film.png", 100) as delivery:
        delivery.write(b"film")
        return delivery.finish()


def test_it_is_rung_for_at_once(book: Book, file: SeenFile) -> None:
    bell = Bell()
    scan_id = announce(book.database, bell, file, "desk")  # type: ignore[arg-type]
    assert bell.rung == [scan_id]
    row = book.row(scan_id)
    assert (row["state"], row["inbox"], row["priority"]) == ("queued", "uploads", PRIORITY)
    assert row["rung_at"] is not None
    assert row["changed_at"] < row["received_at"] - timedelta(hours=1)  # complete: nobody waits for the rest


@pytest.mark.parametrize("bell", [None, Bell(away=True)], ids=["no broker here", "the broker is away"])
def test_without_a_bell_the_sweep_rings(book: Book, file: SeenFile, bell: Bell | None) -> None:
    scan_id = announce(book.database, bell, file, "desk")  # type: ignore[arg-type]
    assert book.row(scan_id)["rung_at"] is None
    assert book.ring() == [scan_id]


def test_the_watcher_was_quicker(book: Book, file: SeenFile) -> None:
    (scan_id,) = book.arrive(file).to_ring
    bell = Bell()
    assert announce(book.database, bell, file, "desk") == scan_id  # type: ignore[arg-type]
    assert bell.rung == []  # the watcher rings for what it registers


def test_the_watcher_comes_later(book: Book, file: SeenFile) -> None:
    announce(book.database, None, file, "desk")
    assert book.unknown(file) == []
