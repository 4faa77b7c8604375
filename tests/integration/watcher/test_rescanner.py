"""Polling of shares: each inbox at its own pace; one that is away is reported, waited for, and never announced anew."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.waiting import eventually
from support.watcher_harness import DEADLINE, WatcherHarness, rescanner_of, standing

from db.states import Reason
from pneumowatch.errors import ShareUnavailable
from watcher.observer import _Inotify
from watcher.reconcile import reconcile_inboxes
from watcher.rescanner import Rescanner


def polled(**settings: Any) -> dict[str, Any]:
    return {"watch_modes": {"inbox": "poll"}, "poll_seconds": 0.1, **settings}


@contextmanager
def hanging(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[threading.Event]:
    """A share that does not answer: listing it blocks until the event is set."""
    answered, scandir = threading.Event(), os.scandir

    def listed(path: Any) -> Any:
        if os.fsdecode(path).startswith(str(folder)):
            answered.wait(3 * DEADLINE)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", listed)
    try:
        yield answered
    finally:
        answered.set()


def test_a_polled_inbox_beside_one_with_events(harness: WatcherHarness) -> None:
    """The first gets its images by events at once; the second's are found by polling."""
    share = harness.outside / "share"
    share.mkdir()
    inboxes = {"inbox": harness.inbox, "share": share}
    with harness.watched(inboxes=inboxes, watch_modes={"inbox": "events", "share": "poll"}, poll_seconds=0.1):
        harness.drop("a.png")
        (share / "b.png").write_bytes(b"image")
        eventually(lambda: harness.paths() == [b"a.png", b"b.png"])
    assert (standing(harness)["watch_mode"], standing(harness, "share")["watch_mode"]) == ("events", "poll")


def test_a_polled_inbox_is_not_listened_to(harness: WatcherHarness) -> None:
    with harness.watched(**polled(poll_seconds=3600)) as watcher:
        harness.drop("a.png")
        harness.drop("b.png")
        rescanner_of(watcher)._rescan_requested.set()  # a rescan, now
        eventually(lambda: harness.paths() == [b"a.png", b"b.png"])
        assert rescanner_of(watcher).observer._observer is None


def test_a_share_that_hangs_delays_no_other_inbox(harness: WatcherHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("watcher.rescanner.NO_ANSWER_SECONDS", 0.2)
    share = harness.outside / "share"
    share.mkdir()
    (share / "b.png").write_bytes(b"image")
    inboxes = {"share": share, "inbox": harness.inbox}
    with hanging(monkeypatch, share) as answered:
        watcher = harness.watcher(inboxes=inboxes, watch_modes={"inbox": "events", "share": "poll"}, poll_seconds=0.1)
        with watcher.running():
            harness.drop("a.png")
            eventually(lambda: harness.paths() == [b"a.png"])
            eventually(lambda: standing(harness, "share")["detail"] == "it does not answer")
            assert standing(harness)["state"] == "available"
            answered.set()
            eventually(lambda: harness.paths() == [b"a.png", b"b.png"])
            eventually(lambda: standing(harness, "share")["state"] == "available")


def test_a_share_that_hangs_does_not_keep_the_watcher_from_ending(
    harness: WatcherHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("watcher.intake.JOIN_SECONDS", 0.5)
    with hanging(monkeypatch, harness.inbox):
        watcher = harness.watcher(**polled())
        with watcher.running():
            eventually(lambda: rescanner_of(watcher)._asked_at is not None)
        assert not watcher.broken


@pytest.mark.parametrize("empty", [False, True], ids=["missing", "empty folder"])
def test_a_share_that_drops_is_reported_and_taken_up_again(harness: WatcherHarness, empty: bool) -> None:
    for number in range(20):
        harness.drop(f"{number}.png")
    with harness.watched(**polled()):
        eventually(lambda: len(harness.announcer.announced) == 20)
        harness.inbox.rename(harness.outside / "mounted")
        if empty:
            harness.inbox.mkdir()
        eventually(lambda: standing(harness)["state"] == "unavailable")
        if empty:
            harness.inbox.rmdir()
        (harness.outside / "mounted").rename(harness.inbox)
        eventually(lambda: standing(harness)["state"] == "available")
        harness.drop("new.png")
        eventually(lambda: b"new.png" in harness.paths())
    assert sorted(harness.announcer.announced) == list(range(1, 22))
    assert harness.ledger.event_count() == 21


def test_a_watcher_that_starts_while_the_share_is_away_takes_it_up_when_it_comes(harness: WatcherHarness) -> None:
    harness.drop("a.png")
    with harness.watched(**polled()):
        pass
    harness.inbox.rename(harness.outside / "mounted")
    harness.inbox.mkdir()
    with harness.watched(**polled()):
        eventually(lambda: standing(harness)["state"] == "unavailable")
        harness.inbox.rmdir()
        (harness.outside / "mounted").rename(harness.inbox)
        eventually(lambda: standing(harness)["state"] == "available")
    assert harness.announcer.announced == [1]


def test_a_vanished_image_that_is_found_again_waits_again(harness: WatcherHarness) -> None:
    harness.drop("a.png")
    with harness.watched(**polled()):
        (harness.inbox / "a.png").rename(harness.outside / "a.png")
        harness.read_all(Reason.VANISHED)
        (harness.outside / "a.png").rename(harness.inbox / "a.png")
        eventually(lambda: harness.announcer.announced == [1, 1])
    assert harness.ledger.states() == {1: "queued"}


def test_reconcile_of_an_empty_folder_in_an_inbox_place_proves_nothing(harness: WatcherHarness) -> None:
    harness.drop("a.png")
    with harness.watched(**polled()):
        harness.inbox.rename(harness.outside / "mounted")
        harness.inbox.mkdir()
        eventually(lambda: standing(harness)["state"] == "unavailable")
    with pytest.raises(ShareUnavailable, match="'inbox'"):
        reconcile_inboxes(harness.database, {"inbox": harness.inbox})
    harness.inbox.rmdir()
    (harness.outside / "mounted").rename(harness.inbox)
    assert reconcile_inboxes(harness.database, {"inbox": harness.inbox}).closed


def test_events_that_the_kernel_dropped_are_looked_for_at_once(
    harness: WatcherHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real overflow: the reader is paused while more happens than the kernel keeps (max_queued_events)."""
    kept = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text("ascii"))
    if kept > 100_000:
        pytest.skip("the kernel keeps more events here than a test should make")
    going, stands_still = threading.Event(), threading.Event()
    handle = _Inotify.handle_event

    def held(self: _Inotify, event: Any) -> None:
        stands_still.set()
        going.wait(DEADLINE)
        handle(self, event)

    with harness.watched():
        monkeypatch.setattr(_Inotify, "handle_event", held)
        harness.drop("first.png")
        assert stands_still.wait(DEADLINE)
        ping, pong = harness.inbox / "ping.part", harness.inbox / "pong.part"
        ping.touch()
        for _ in range(kept // 4 + 1000):
            ping.rename(pong)
            pong.rename(ping)
        harness.drop("lost.png")
        (harness.inbox / "ward").mkdir()
        harness.drop("ward/lost.png")
        going.set()
        eventually(lambda: harness.paths() == [b"first.png", b"lost.png", b"ward/lost.png"])
        harness.drop("ward/after.png")  # and the folder of whose making nothing was heard is watched
        eventually(lambda: b"ward/after.png" in harness.paths())


SHORT_OF_WATCHES = """
import sys, threading, time
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from support.watcher_harness import WatcherHarness
from support.waiting import eventually
from db import schema
from db.session import Database
folder = Path(sys.argv[1])
Path("/proc/sys/user/max_inotify_watches").write_text("10")
database = Database(f"sqlite:///{folder / 'ledger.db'}", threading.Event())
schema.upgrade(database)
harness = WatcherHarness(folder, database)
for number in range(30):
    (harness.inbox / f"ward-{number}").mkdir()
with harness.watched(poll_seconds=0.2) as watcher:
    for number in range(30):
        harness.drop(f"ward-{number}/a.png")
    eventually(lambda: len(harness.paths()) == 30)
    print("all found", watcher._intakes[0].rescanner.observer.complete)
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="no unshare here")
def test_more_folders_than_the_kernel_watches_are_polled(tmp_path: Path) -> None:
    """A real limit, in a user namespace of its own."""
    words = ["unshare", "--user", "--map-root-user", sys.executable, "-c", SHORT_OF_WATCHES, str(tmp_path), *sys.path]
    done = subprocess.run(words, capture_output=True, text=True, timeout=3 * DEADLINE)
    if "all found" not in done.stdout and ("Permission denied" in done.stderr or "not permitted" in done.stderr):
        pytest.skip("user namespaces are not permitted here")
    assert "all found False" in done.stdout, done.stdout + done.stderr
    assert "fs.inotify.max_user_watches" in done.stdout


def test_what_a_rescan_costs_decides_how_often_it_comes(
    harness: WatcherHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A twentieth of a core at most; and a folder that takes long to list is left alone as long."""
    rescanner = rescanner_of(harness.watcher(**polled(poll_seconds=5.0)))
    moments = {"thread_time": [0.0, 0.1], "monotonic": [0.0, 1.0]}
    monkeypatch.setattr(Rescanner, "_chunks", lambda _: iter(()))
    for name in moments:
        monkeypatch.setattr(f"watcher.rescanner.time.{name}", lambda name=name: moments[name].pop(0))
    assert rescanner._rescan() == 5.0
    moments |= {"thread_time": [0.0, 3.0], "monotonic": [0.0, 4.0]}
    assert rescanner._rescan() == pytest.approx(60)
    moments |= {"thread_time": [0.0, 0.5], "monotonic": [0.0, 90.0]}
    assert rescanner._rescan() == pytest.approx(90)
