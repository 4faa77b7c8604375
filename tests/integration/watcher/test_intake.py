"""The watcher with real folders, events and threads, on a real SQLite, and a fake announcer."""

import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from support.fake_announcer import FakeAnnouncer
from support.waiting import eventually

from db import schema
from db.health.inbox_presence import inbox_states
from db.ledger import transitions
from db.models import Scan
from db.session import Database
from pneumowatch.settings import Settings
from watcher import directory
from watcher.intake import Intake, Watcher
from watcher.reconcile import reconcile_inboxes

SETTLE = 0.3
DEADLINE = 60.0  # seconds; reached only by a failure


class Ward:
    """An inbox, its watcher's settings, and what the table says of it."""

    def __init__(self, folder: Path) -> None:
        self.inbox = folder / "inbox"
        self.outside = folder / "outside"
        self.inbox.mkdir()
        self.outside.mkdir()
        self.settings = Settings(
            data_dir=folder / "data", settle_seconds=SETTLE, rescan_seconds=3600, watch_modes={"ward": "events"}
        )
        (folder / "data").mkdir()
        self.database = Database(self.settings.database)
        schema.upgrade(self.database)
        self.announcer = FakeAnnouncer()

    @contextmanager
    def watched(self, **settings: float) -> Iterator[Watcher]:
        given = self.settings.model_copy(update=settings)
        watcher = Watcher(given, {"ward": self.inbox}, self.database, self.announcer, threading.Event())  # type: ignore[arg-type]
        with watcher.running():
            assert watcher.initial_scan_done.wait(DEADLINE)
            yield watcher

    def rows(self) -> dict[str, tuple[int, str]]:
        """Return {path: (size, state)}, one row a path."""
        with self.database.engine.connect() as connection:
            found = connection.execute(select(Scan.path, Scan.size, Scan.state)).all()
        assert len({row.path for row in found}) == len(found), "a path has two rows"
        return {row.path: (row.size, row.state) for row in found}

    def standing(self) -> str:
        """Return whether the inbox is available, as its watcher reports."""
        (found,) = self.database.read(inbox_states)
        return found["state"]

    def image(self, name: str, content: bytes = b"image") -> Path:
        path = self.outside / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path


@pytest.fixture
def ward(tmp_path: Path) -> Ward:
    return Ward(tmp_path)


def test_an_image_renamed_into_the_folder_is_complete_at_once(ward: Ward) -> None:
    with ward.watched(settle_seconds=3600):
        ward.image("a.jpeg").rename(ward.inbox / "a.jpeg")
        eventually(lambda: ward.rows() == {"a.jpeg": (5, "queued")})
    assert ward.announcer.announced == [1]


def test_an_image_that_is_closed_after_writing_is_complete_at_once(ward: Ward) -> None:
    with ward.watched(settle_seconds=3600):
        shutil.copyfile(ward.image("a.jpeg"), ward.inbox / "a.jpeg")
        eventually(lambda: ward.rows() == {"a.jpeg": (5, "queued")})


def test_a_temporary_name_is_no_scan_until_it_is_renamed(ward: Ward) -> None:
    with ward.watched() as watcher:
        (ward.inbox / "a.jpeg.part").write_bytes(b"image")
        (ward.inbox / "b.jpeg").write_bytes(b"image")
        eventually(lambda: "b.jpeg" in ward.rows() and watcher.initial_scan_done.is_set())
        assert list(ward.rows()) == ["b.jpeg"]
        (ward.inbox / "a.jpeg.part").rename(ward.inbox / "a.jpeg")
        eventually(lambda: set(ward.rows()) == {"a.jpeg", "b.jpeg"})


def test_a_slow_writer_that_closes_and_reopens_makes_one_row(ward: Ward) -> None:
    with ward.watched() as watcher:
        for size in (5, 10, 15, 20):
            with (ward.inbox / "a.jpeg").open("ab") as file:
                file.write(b"12345")
            eventually(lambda size=size: ward.rows() == {"a.jpeg": (size, "queued")})
        eventually(watcher.initial_scan_done.is_set)
    assert ward.rows() == {"a.jpeg": (20, "queued")}


def test_a_hard_link_must_settle(ward: Ward) -> None:
    with ward.watched():
        started = time.monotonic()
        os.link(ward.image("a.jpeg"), ward.inbox / "a.jpeg")
        eventually(lambda: "a.jpeg" in ward.rows())
        assert time.monotonic() - started >= SETTLE


def test_a_file_that_is_still_written_to_is_not_registered(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """So however often it is observed: it has grown since the last time."""
    looks, look = [], directory.inspect
    with ExitStack() as after, ward.watched(settle_seconds=0.05):
        file = after.enter_context((ward.inbox / "a.jpeg").open("wb", buffering=0))  # open until the watcher has ended

        def growing(*where: Any) -> Any:
            file.write(b"12345")
            looks.append(where)
            return look(*where)

        monkeypatch.setattr(directory, "inspect", growing)
        file.write(b"12345")
        eventually(lambda: len(looks) >= 8)
    assert ward.rows() == {}


def test_a_file_deleted_before_it_settled_is_forgotten(ward: Ward) -> None:
    with ward.watched() as watcher:
        os.link(ward.image("a.jpeg"), ward.inbox / "a.jpeg")
        (ward.inbox / "a.jpeg").unlink()
        ward.image("b.jpeg").rename(ward.inbox / "b.jpeg")
        eventually(lambda: "b.jpeg" in ward.rows() and watcher.initial_scan_done.is_set())
        assert list(ward.rows()) == ["b.jpeg"]


def test_a_folder_moved_in_brings_its_images(ward: Ward) -> None:
    for name in ("study/1/a.jpeg", "study/1/b.jpeg", "study/2/deep/c.jpeg", "study/.hidden/d.jpeg"):
        ward.image(name)
    with ward.watched():
        (ward.outside / "study").rename(ward.inbox / "study")
        eventually(lambda: set(ward.rows()) == {"study/1/a.jpeg", "study/1/b.jpeg", "study/2/deep/c.jpeg"})
        ward.image("late.jpeg").rename(ward.inbox / "study" / "2" / "deep" / "late.jpeg")
        eventually(lambda: "study/2/deep/late.jpeg" in ward.rows())


def test_a_tree_copied_in_brings_its_images(ward: Ward) -> None:
    names = {f"tree/{i % 7}/{i % 5}/image-{i}.jpeg" for i in range(120)}
    for name in names:
        ward.image(name)
    with ward.watched():
        shutil.copytree(ward.outside / "tree", ward.inbox / "tree")
        eventually(lambda: set(ward.rows()) == names)


def test_what_was_there_before_the_start_is_found_and_known_at_the_next(ward: Ward) -> None:
    for i in range(50):
        (ward.inbox / f"{i}.jpeg").write_bytes(b"image")
    with ward.watched():
        assert len(ward.rows()) == 50
    assert sorted(ward.announcer.announced) == list(range(1, 51))
    with ward.watched():
        assert len(ward.rows()) == 50
    assert len(ward.announcer.announced) == 50, "known images were announced anew"


def test_a_burst_is_registered_and_announced_once(ward: Ward) -> None:
    for i in range(500):
        ward.image(f"{i}.jpeg")
    with ward.watched():
        for i in range(500):
            (ward.outside / f"{i}.jpeg").rename(ward.inbox / f"{i}.jpeg")
        eventually(lambda: len(ward.announcer.announced) >= 500)
    assert sorted(ward.announcer.announced) == list(range(1, 501))
    assert len(ward.rows()) == 500


def test_the_rescan_finds_what_no_event_told(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a network share, where another machine's writes cause no events."""
    monkeypatch.setattr("watcher.observer.InboxObserver.watch", lambda self: None)
    with ward.watched(rescan_seconds=0.1):
        (ward.inbox / "a.jpeg").write_bytes(b"image")
        eventually(lambda: "a.jpeg" in ward.rows())


def test_images_are_registered_while_the_broker_is_away(ward: Ward) -> None:
    ward.announcer.away = True
    with ward.watched():
        ward.image("a.jpeg").rename(ward.inbox / "a.jpeg")
        eventually(lambda: "a.jpeg" in ward.rows())

        def unannounced() -> bool:
            return ward.database.read(lambda c: c.scalar(select(Scan.announced_at))) is None

        eventually(unannounced)  # the sweep announces such rows
    assert ward.announcer.announced == []


def test_an_inbox_that_goes_away_and_returns_announces_nothing_anew(ward: Ward) -> None:
    for i in range(20):
        (ward.inbox / f"{i}.jpeg").write_bytes(b"image")
    with ward.watched(rescan_seconds=0.1):
        ward.inbox.rename(ward.outside / "away")
        eventually(lambda: ward.standing() == "unavailable")
        (ward.outside / "away").rename(ward.inbox)
        (ward.inbox / "new.jpeg").write_bytes(b"image")
        eventually(lambda: "new.jpeg" in ward.rows())
        assert len(ward.rows()) == 21
    assert sorted(ward.announcer.announced) == list(range(1, 22))


def test_newer_content_of_a_finished_scan_is_a_scan_of_its_own(ward: Ward) -> None:
    with ward.watched():
        (ward.inbox / "a.jpeg").write_bytes(b"image")
        eventually(lambda: "a.jpeg" in ward.rows())
        reject_all(ward)
        (ward.inbox / "a.jpeg").write_bytes(b"another image")
        eventually(lambda: len(scans(ward)) == 2)
    old, new = scans(ward)
    assert (old.state, old.superseded_by) == ("rejected", new.id)
    assert (new.state, new.size) == ("queued", 13)


def test_what_changes_while_it_is_read_is_looked_at_again(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[Any] = []
    register = Intake._register

    def counted(intake: Intake, files: Any) -> None:
        register(intake, files)
        looks.append(files)

    monkeypatch.setattr(Intake, "_register", counted)
    monkeypatch.setattr("watcher.intake.BUSY_RETRY_SECONDS", 0.05)
    with ward.watched():
        (ward.inbox / "a.jpeg").write_bytes(b"image")
        eventually(lambda: "a.jpeg" in ward.rows())
        claim = ward.database.write(lambda c: transitions.claim(c, 1, "worker", transitions.timedelta(seconds=60)))
        assert claim is not None
        (ward.inbox / "a.jpeg").write_bytes(b"another image")
        looks.clear()
        eventually(lambda: len(looks) >= 5)
        assert ward.rows() == {"a.jpeg": (5, "running")}
        deferred = transitions.Deferred(claim.scans[0].id, transitions.utc_now(), "the file has changed", None, None)
        ward.database.write(lambda c: transitions.record_outcomes(c, claim.token, [deferred], "worker"))
        eventually(lambda: ward.rows() == {"a.jpeg": (13, "queued")})


def test_the_ledger_is_closed_and_says_what_it_ignores(ward: Ward) -> None:
    (ward.inbox / "a.jpeg").write_bytes(b"image")
    (ward.inbox / "b.part").write_bytes(b"image")
    (ward.inbox / "link.jpeg").symlink_to("a.jpeg")
    with ward.watched():
        report = reconcile_inboxes(ward.database, {"ward": ward.inbox})
    assert (report.closed, report.files, report.rules) == (True, 1, {"temporary": 1, "link": 1})
    (ward.inbox / "unseen.jpeg").write_bytes(b"image")
    report = reconcile_inboxes(ward.database, {"ward": ward.inbox})
    assert not report.closed
    assert [(one.path, one.rule) for one in report.unregistered if one.rule == "missing"] == [
        (b"unseen.jpeg", "missing")
    ]


def scans(ward: Ward) -> Sequence[Scan]:
    with ward.database.engine.connect() as connection:
        return connection.execute(select(Scan.id, Scan.state, Scan.size, Scan.superseded_by).order_by(Scan.id)).all()  # type: ignore[return-value]


def reject_all(ward: Ward) -> None:
    claim = ward.database.write(lambda c: transitions.claim(c, 9, "worker", transitions.timedelta(seconds=60)))
    assert claim is not None
    outcomes = [transitions.Rejected(scan.id, transitions.Reason.UNREADABLE, "no image") for scan in claim.scans]
    ward.database.write(lambda c: transitions.record_outcomes(c, claim.token, outcomes, "worker"))
