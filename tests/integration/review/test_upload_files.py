"""An upload is registered once, by the first component to see it, and read without waiting for it to settle."""

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from support.fake_announcer import FakeAnnouncer
from support.ledger_driver import LedgerDriver

from db import schema
from db.ledger.file_version import FileVersion
from db.session import Database
from review.upload_files import UPLOAD_PRIORITY, IncomingFile, register_upload


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[LedgerDriver]:
    with closing(Database(f"sqlite:///{tmp_path / 'ledger.db'}")) as database:
        schema.upgrade(database)
        yield LedgerDriver(database)


@pytest.fixture
def file(tmp_path: Path) -> FileVersion:
    with IncomingFile(tmp_path / "uploads", "image.png", 100) as incoming:
        incoming.write(b"image")
        return incoming.finish()


def test_an_upload_is_announced_at_once(ledger: LedgerDriver, file: FileVersion) -> None:
    announcer = FakeAnnouncer()
    scan_id = register_upload(ledger.database, announcer, file, "review")  # type: ignore[arg-type]
    assert announcer.announced == [scan_id]
    row = ledger.row(scan_id)
    assert (row["state"], row["inbox"], row["priority"]) == ("queued", "uploads", UPLOAD_PRIORITY)
    assert row["announced_at"] is not None
    assert row["changed_at"] < row["received_at"] - timedelta(hours=1)  # complete: nobody waits for the rest


@pytest.mark.parametrize("announcer", [None, FakeAnnouncer(away=True)], ids=["no broker here", "the broker is away"])
def test_without_a_broker_the_sweep_announces_it(
    ledger: LedgerDriver, file: FileVersion, announcer: FakeAnnouncer | None
) -> None:
    scan_id = register_upload(ledger.database, announcer, file, "review")  # type: ignore[arg-type]
    assert ledger.row(scan_id)["announced_at"] is None
    assert ledger.mark_announced() == [scan_id]


def test_the_watcher_was_quicker(ledger: LedgerDriver, file: FileVersion) -> None:
    (scan_id,) = ledger.register(file).to_announce
    announcer = FakeAnnouncer()
    assert register_upload(ledger.database, announcer, file, "review") == scan_id  # type: ignore[arg-type]
    assert announcer.announced == []  # the watcher announces what it registers


def test_the_watcher_comes_later(ledger: LedgerDriver, file: FileVersion) -> None:
    register_upload(ledger.database, None, file, "review")
    assert ledger.unregistered(file) == []
