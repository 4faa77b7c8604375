"""A film handed in is registered once, by whoever comes first, and read without waiting for it to settle."""

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from books import Book

from db import schema
from db.ledger.file_version import FileVersion
from db.session import Database
from pneumowatch.errors import BrokerUnavailable
from review.upload_files import UPLOAD_PRIORITY, IncomingFile, register_upload


class Bell:
    """Of a broker that answers or not."""

    def __init__(self, away: bool = False) -> None:
        self.away = away
        self.rung: list[int] = []

    def announce(self, ids: list[int]) -> None:
        if self.away:
            raise BrokerUnavailable("away")
        self.rung += ids


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    with closing(Database(f"sqlite:///{tmp_path / 'ledger.db'}")) as database:
        schema.upgrade(database)
        yield Book(database)


@pytest.fixture
def file(tmp_path: Path) -> FileVersion:
    with IncomingFile(tmp_path / "uploads", "film.png", 100) as incoming:
        incoming.write(b"film")
        return incoming.finish()


def test_it_is_rung_for_at_once(book: Book, file: FileVersion) -> None:
    bell = Bell()
    scan_id = register_upload(book.database, bell, file, "review")  # type: ignore[arg-type]
    assert bell.rung == [scan_id]
    row = book.row(scan_id)
    assert (row["state"], row["inbox"], row["priority"]) == ("queued", "uploads", UPLOAD_PRIORITY)
    assert row["announced_at"] is not None
    assert row["changed_at"] < row["received_at"] - timedelta(hours=1)  # complete: nobody waits for the rest


@pytest.mark.parametrize("bell", [None, Bell(away=True)], ids=["no broker here", "the broker is away"])
def test_without_a_bell_the_sweep_rings(book: Book, file: FileVersion, bell: Bell | None) -> None:
    scan_id = register_upload(book.database, bell, file, "review")  # type: ignore[arg-type]
    assert book.row(scan_id)["announced_at"] is None
    assert book.ring() == [scan_id]


def test_the_watcher_was_quicker(book: Book, file: FileVersion) -> None:
    (scan_id,) = book.arrive(file).to_announce
    bell = Bell()
    assert register_upload(book.database, bell, file, "review") == scan_id  # type: ignore[arg-type]
    assert bell.rung == []  # the watcher rings for what it registers


def test_the_watcher_comes_later(book: Book, file: FileVersion) -> None:
    register_upload(book.database, None, file, "review")
    assert book.unknown(file) == []
