"""A watched folder to test with: real folders, events and threads, a real ledger, and a fake announcer."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from db.health.inbox_presence import inbox_states
from db.ledger.outcomes import Rejected
from db.session import Database
from db.states import Reason
from pneumowatch.settings import Settings
from support.fake_announcer import FakeAnnouncer
from support.ledger_driver import LedgerDriver, classified
from watcher.intake import Watcher
from watcher.rescanner import Rescanner

SETTLE: Final = 0.3
DEADLINE: Final = 60.0  # seconds; reached only by a failure


class WatcherHarness:
    """A folder with an inbox, a ledger, and a fake announcer."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.inbox = folder / "inbox"
        self.outside = folder / "outside"
        self.inbox.mkdir()
        self.outside.mkdir()
        self.database = database
        self.ledger = LedgerDriver(database)
        self.announcer = FakeAnnouncer()

    def watcher(self, rescan_seconds: float = 3600, inboxes: dict[str, Path] | None = None, **settings: Any) -> Watcher:
        """Make a watcher with file events on any file system, unless settings say otherwise."""
        given = {"settle_seconds": SETTLE, "watch_modes": {"inbox": "events"}, **settings}
        watched = inboxes or {"inbox": self.inbox}
        stop = threading.Event()
        return Watcher(Settings(rescan_seconds=rescan_seconds, **given), watched, self.database, self.announcer, stop)  # type: ignore[arg-type]

    @contextmanager
    def watched(self, rescan_seconds: float = 3600, **settings: Any) -> Iterator[Watcher]:
        """Run a watcher that has registered what is there; see `watcher`."""
        watcher = self.watcher(rescan_seconds, **settings)
        with watcher.running():
            assert watcher.initial_scan_done.wait(DEADLINE)
            yield watcher
        assert not watcher.broken

    def drop(self, name: str, content: bytes = b"image") -> None:
        """Put a finished file into the inbox by rename."""
        (self.outside / "new").write_bytes(content)
        (self.outside / "new").rename(self.inbox / name)

    def paths(self) -> list[bytes]:
        return sorted(self.ledger.row(scan_id)["path_bytes"] for scan_id in self.ledger.states())

    def read_all(self, reason: Reason | None = None) -> None:
        claim = self.ledger.claimed()
        sentence = "A sentence."
        outcomes = [
            Rejected(scan.id, reason, sentence) if reason else classified(scan.id, flagged=False)
            for scan in claim.scans
        ]
        self.ledger.finish(claim, *outcomes)


def standing(house: WatcherHarness, inbox: str = "inbox") -> dict[str, Any]:
    """Return what is known of the inbox: whether it is available, and how it is watched."""
    (found,) = [row for row in house.database.read(inbox_states) if row["inbox"] == inbox]
    return found


def rescanner_of(watcher: Watcher) -> Rescanner:
    """Return the rescanner of its first inbox."""
    return watcher._intakes[0].rescanner
