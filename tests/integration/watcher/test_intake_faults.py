"""The watcher when folders, events or the database fail: every file is found, and none is registered twice."""

import os
import shutil
import threading
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError
from support.waiting import eventually
from support.watcher_harness import DEADLINE, SETTLE, WatcherHarness, rescanner_of, standing

from db.states import Reason
from pneumowatch.errors import ShareUnavailable
from pneumowatch.settings import Settings
from watcher.intake import Watcher
from watcher.observer import FileEvent, InboxObserver
from watcher.reconcile import reconcile_inboxes


def test_an_inbox_that_is_away_at_the_start(harness: WatcherHarness) -> None:
    """Its share comes later; the other inboxes are watched meanwhile."""
    share = harness.outside / "share"
    with harness.watched(0.1, inboxes={"inbox": harness.inbox, "share": share}):
        harness.drop("a.png")
        eventually(lambda: harness.paths() == [b"a.png"])
        share.mkdir()
        (share / "b.png").write_bytes(b"image")
        eventually(lambda: harness.paths() == [b"a.png", b"b.png"])


def test_without_file_events_the_rescan_finds_everything(
    harness: WatcherHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel has no watches left (fs.inotify.max_user_watches)."""

    def no_watches(*_: object) -> None:
        raise OSError(28, "inotify watch limit reached")

    monkeypatch.setattr("watchdog.observers.inotify.InotifyEmitter.on_thread_start", no_watches)
    with harness.watched(0.1):
        harness.drop("a.png")
        eventually(lambda: harness.paths() == [b"a.png"])


@pytest.mark.parametrize("moved", [True, False])
def test_an_inbox_that_was_made_anew_is_watched_again(
    harness: WatcherHarness, monkeypatch: pytest.MonkeyPatch, moved: bool
) -> None:
    """By its events, too: the rescan, which comes once a minute, finds nothing any more in this test."""
    with harness.watched(0.1) as watcher:
        harness.drop("a.png")
        eventually(lambda: harness.paths() == [b"a.png"])
        if moved:
            harness.inbox.rename(harness.outside / "old")
        else:
            shutil.rmtree(harness.inbox)
        eventually(lambda: standing(harness)["state"] == "unavailable")
        harness.inbox.mkdir()
        eventually(lambda: is_watched(rescanner_of(watcher).observer, harness.inbox))
        monkeypatch.setattr(rescanner_of(watcher), "_rescan", lambda: 3600.0)
        harness.drop("b.png")
        eventually(lambda: harness.paths() == [b"a.png", b"b.png"])
    assert harness.ledger.event_count() == 2


def test_a_share_that_drops_and_comes_back_announces_nothing_anew(harness: WatcherHarness) -> None:
    """A dropped mount is an empty folder."""
    for number in range(20):
        harness.drop(f"{number}.png")
    with harness.watched(0.1):
        eventually(lambda: len(harness.paths()) == 20)
        harness.read_all()
        harness.inbox.rename(harness.outside / "mounted")
        harness.inbox.mkdir()
        eventually(lambda: standing(harness)["files"] == 0)  # it was looked through, and nothing was there
        harness.inbox.rmdir()
        (harness.outside / "mounted").rename(harness.inbox)
        harness.drop("new.png")
        eventually(lambda: b"new.png" in harness.paths())
    assert sorted(harness.announcer.announced) == list(range(1, 22))


def test_a_file_that_vanished_and_comes_back_is_queued_again(harness: WatcherHarness) -> None:
    with harness.watched():
        harness.drop("a.png")
        eventually(lambda: len(harness.announcer.announced) == 1)
        (harness.inbox / "a.png").rename(harness.outside / "a.png")
        harness.read_all(Reason.VANISHED)
        (harness.outside / "a.png").rename(harness.inbox / "a.png")
        eventually(lambda: harness.announcer.announced == [1, 1])
    assert harness.ledger.states() == {1: "queued"}


def test_a_file_renamed_inside_the_inbox_is_a_scan_of_its_new_path(harness: WatcherHarness) -> None:
    with harness.watched():
        harness.drop("a.png")
        eventually(lambda: harness.paths() == [b"a.png"])
        (harness.inbox / "a.png").rename(harness.inbox / "b.png")
        eventually(lambda: harness.paths() == [b"a.png", b"b.png"])


def test_a_folder_renamed_inside_the_inbox(harness: WatcherHarness) -> None:
    with harness.watched():
        (harness.inbox / "ward").mkdir()
        harness.drop("ward/a.png")
        eventually(lambda: harness.paths() == [b"ward/a.png"])
        (harness.inbox / "ward").rename(harness.inbox / "er")
        eventually(lambda: harness.paths() == [b"er/a.png", b"ward/a.png"])
        harness.drop("er/b.png")
        eventually(lambda: b"er/b.png" in harness.paths())


def test_what_leaves_the_inbox_or_is_a_link_or_pipe_makes_no_row(harness: WatcherHarness) -> None:
    with harness.watched() as watcher:
        (harness.inbox / "link.png").symlink_to(harness.outside)
        os.mkfifo(harness.inbox / "pipe.png")
        (harness.inbox / "folder.png").mkdir()
        (harness.outside / "secret.png").write_bytes(b"image")
        harness.drop("a.png")
        eventually(lambda: harness.paths() == [b"a.png"])
        (harness.inbox / "a.png").rename(harness.outside / "a.png")
        harness.drop("b.png")
        eventually(lambda: b"b.png" in harness.paths() and watcher.initial_scan_done.is_set())
        assert harness.paths() == [b"a.png", b"b.png"]


def test_names_that_are_no_utf8_arrive_by_event(harness: WatcherHarness) -> None:
    name = os.fsdecode(b"r\xf6nt\ngen.png")
    with harness.watched():
        harness.drop(name)
        eventually(lambda: harness.paths() == [os.fsencode(name)])
    assert reconcile_inboxes(harness.database, {"inbox": harness.inbox}).closed


def test_two_watchers_of_one_inbox_make_one_row_a_file(harness: WatcherHarness) -> None:
    with harness.watched(0.1), harness.watched(0.1):
        for number in range(50):
            harness.drop(f"{number}.png")
        eventually(lambda: len(harness.paths()) == 50)
    assert sorted(harness.announcer.announced) == list(range(1, 51))


def test_images_of_an_outage_of_the_database_are_registered_after_it(
    harness: WatcherHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watcher waits; nothing that happened meanwhile is lost."""
    away, tries = threading.Event(), []
    begin = harness.database.engine.begin

    def faulty() -> object:
        if away.is_set():
            tries.append(1)
            raise OperationalError("BEGIN", {}, ConnectionError("away"))
        return begin()

    with harness.watched() as watcher:
        monkeypatch.setattr(harness.database.engine, "begin", faulty)
        away.set()
        for number in range(5):
            harness.drop(f"{number}.png")
        eventually(lambda: len(tries) >= 3)
        assert not watcher.broken
        assert harness.announcer.announced == []
        away.clear()
        eventually(lambda: len(harness.announcer.announced) == 5)


def test_a_watcher_that_loses_a_thread_ends(harness: WatcherHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise it would run on, see files and register none."""
    monkeypatch.setattr("threading.excepthook", lambda _: None)

    def fault(*_: object) -> None:
        raise KeyError("a fault in the program")

    stop = threading.Event()
    settings = Settings(settle_seconds=SETTLE)
    watcher = Watcher(settings, {"inbox": harness.inbox}, harness.database, harness.announcer, stop)  # type: ignore[arg-type]
    monkeypatch.setattr("watcher.intake.Intake._register", fault)
    with watcher.running():
        harness.drop("a.png")
        assert stop.wait(DEADLINE)
    assert watcher.broken


def test_reconcile_of_an_inbox_that_is_away_proves_nothing(harness: WatcherHarness) -> None:
    with pytest.raises(ShareUnavailable):
        reconcile_inboxes(harness.database, {"inbox": harness.inbox, "away": harness.outside / "missing"})


def test_reconcile_changes_nothing(harness: WatcherHarness) -> None:
    harness.drop("a.png")
    for _ in range(2):
        report = reconcile_inboxes(harness.database, {"inbox": harness.inbox})
        assert (report.closed, report.files, report.rules) == (False, 0, {"missing": 1})
    assert harness.ledger.states() == {}


def test_reconcile_names_a_file_that_changed_since(harness: WatcherHarness) -> None:
    harness.drop("a.png")
    with harness.watched():
        eventually(lambda: len(harness.paths()) == 1)
    harness.drop("a.png", b"another image")
    report = reconcile_inboxes(harness.database, {"inbox": harness.inbox})
    assert [(one.source, one.path, one.rule) for one in report.unregistered] == [("inbox", b"a.png", "missing")]


def test_reconcile_of_more_files_than_one_query(harness: WatcherHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("watcher.reconcile.ENTRIES_PER_QUERY", 7)
    for number in range(30):
        harness.drop(f"{number}.png")
    with harness.watched():
        eventually(lambda: len(harness.paths()) == 30)
    harness.drop("one-more.png")
    report = reconcile_inboxes(harness.database, {"inbox": harness.inbox})
    assert (report.files, report.rules) == (30, {"missing": 1})


def test_reconcile_is_not_closed_over_a_folder_that_cannot_be_listed(
    harness: WatcherHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    (harness.inbox / "ward").mkdir()
    scandir = os.scandir

    def denied(path: bytes) -> object:
        if path.endswith(b"ward"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    report = reconcile_inboxes(harness.database, {"inbox": harness.inbox})
    assert (report.closed, report.rules) == (False, {"unlistable": 1})


@pytest.mark.parametrize("second", ["deleted", "moved out and deleted"])
def test_folders_moved_out_and_deleted_elsewhere_cost_no_event(tmp_path: Path, second: str) -> None:
    """watchdog's reader ends over the end of a folder that it still knows under a name which is another's by then."""
    inbox, archive = tmp_path / "inbox", tmp_path / "archive"
    inbox.mkdir()
    archive.mkdir()
    missed = threading.Event()
    observer = InboxObserver("ward", inbox, missed.set)
    observer.watch()
    try:
        (inbox / "today").mkdir()
        hears(observer, inbox / "today" / "a.png")
        (inbox / "today").rename(archive / "first")
        (inbox / "today").mkdir()
        hears(observer, inbox / "today" / "b.png")
        if second != "deleted":
            (inbox / "today").rename(archive / "second")
        shutil.rmtree(inbox / "today" if second == "deleted" else archive / "second")
        shutil.rmtree(archive / "first")
        hears(observer, inbox / "c.png")
        assert observer.complete
    finally:
        observer.stop_watching()
    assert missed.is_set(), "the event that it could not understand may have been of an image"


def hears(observer: InboxObserver, image: Path) -> None:
    """Wait until a new image is reported."""
    eventually(lambda: is_watched(observer, image.parent))
    image.write_bytes(b"image")
    eventually(lambda: any(signal.path.endswith(image.name.encode()) for signal in drained(observer)))


def is_watched(observer: InboxObserver, folder: Path) -> bool:
    """Whether the kernel tells the observer of what happens in this very folder: it lists the inodes watched."""
    if observer._observer is None:
        return False
    told = Path(f"/proc/self/fdinfo/{observer._observer._inotify_fd._inotify_fd}").read_text("ascii")
    return f" ino:{folder.stat().st_ino:x} " in told


def drained(observer: InboxObserver) -> list[FileEvent]:
    found = []
    while not observer.events.empty():
        found.append(observer.events.get())
    return found
