"""Rescan one inbox again and again: is it available, and does it hold files without a row?

Where the file system reports events, they announce most files at once. The rescan finds the rest, and every file on a
network share. It walks the folder and queries the table, a thousand files at a time, and keeps nothing in memory.
"""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

from db.health.inbox_presence import DOES_NOT_ANSWER, InboxPresence, RescanReport
from db.ledger import registration
from db.ledger.file_version import FileVersion
from db.session import Database
from pneumowatch import mount_identity
from pneumowatch.component import Component
from pneumowatch.errors import ShareUnavailable
from pneumowatch.settings import Settings
from watcher import directory, mounts
from watcher.mounts import WatchMode
from watcher.observer import EventKind, FileEvent, InboxObserver

FILES_PER_QUERY: Final = 1000
MAX_PENDING_EVENTS: Final = 5000  # beyond these the rescan waits for the intake ...
PENDING_POLL_SECONDS: Final = 0.01  # ... and checks again after this
INBOX_CHECK_SECONDS: Final = 5.0  # longest time between checks that the inbox is available
MAX_CPU_FRACTION: Final = 0.05  # of one core: rescans that would take more come less often
MAX_TIME_FRACTION: Final = 0.5  # of the time: a share that is slow to list rests as long as the listing took
RESCAN_STALL_SECONDS: Final = 120.0  # without progress, a rescan or an intake counts as stuck
NO_ANSWER_SECONDS: Final = 15.0  # without an answer of the file system, the share counts as away


class Rescanner:
    """Compares one inbox with the table until `stop` is set.

    `rescanned` is set after the first rescan, or when the inbox was away. Files found are put on the observer's queue.
    """

    def __init__(
        self,
        settings: Settings,
        inbox: str,
        root: Path,
        database: Database,
        presence: InboxPresence,
        stop: threading.Event,
        component: Component,
    ) -> None:
        self._component = component
        self._settings = settings
        self._inbox = inbox
        self._root = root
        self._database = database
        self._presence = presence
        self._stop = stop
        self._rescan_requested = threading.Event()  # rescan now, do not wait for the interval
        self.observer = InboxObserver(inbox, root, self._rescan_requested.set)
        self.rescanned = threading.Event()
        self._watch_mode = WatchMode.POLL
        self._asked_at: float | None = None  # start of the file system call that is pending (monotonic seconds)
        self._reported_asked_at: float | None = None  # start of the pending call that was reported as stalled

    def run(self) -> None:
        try:
            self._loop()
        finally:
            self.observer.stop_watching()

    def report_stall(self) -> None:
        """Report the inbox as away where the file system has not answered for long. Called by another thread."""
        asked_at = self._asked_at
        if (
            asked_at is not None
            and asked_at != self._reported_asked_at
            and time.monotonic() - asked_at >= NO_ANSWER_SECONDS
        ):
            self._reported_asked_at = asked_at
            self._presence.report_unavailable(self._inbox, self._root, DOES_NOT_ANSWER)

    def _loop(self) -> None:
        next_rescan, away = 0.0, False
        while not self._stop.is_set():
            self._report_progress()
            was_away, away = away, not self._check_inbox()
            if (was_away and not away) or self._rescan_requested.is_set() or time.monotonic() >= next_rescan:
                self._rescan_requested.clear()  # before the walk: an overflow during it needs another walk
                next_rescan = time.monotonic() + self._rescan()
                self.rescanned.set()
            self._wait(min(next_rescan - time.monotonic(), self._interval(), INBOX_CHECK_SECONDS))

    def _wait(self, seconds: float) -> None:
        """Wait for `seconds`, until a rescan is requested, or until shutdown."""
        end = time.monotonic() + seconds
        while (
            not self._stop.is_set()
            and (left := end - time.monotonic()) > 0
            and not self._rescan_requested.wait(min(left, 0.2))
        ):
            pass

    def _check_inbox(self) -> bool:
        try:
            present = self._presence.check(self._inbox, self._root, self._filesystem_call)
            with self._filesystem_call():
                kind = mount_identity.identify_folder(self._root).kind
                self._watch_mode = WatchMode(
                    self._settings.watch_modes.get(self._inbox, mounts.default_watch_mode(kind))
                )
                # before the rescan, so that no file arrives unseen between rescan and watch
                self.observer.stop_watching() if self._watch_mode is WatchMode.POLL else self.observer.watch()
            return present
        except (ShareUnavailable, OSError):
            return False

    def _rescan(self) -> float:
        """Report every file without a row to the intake. Returns the seconds until the next rescan is due."""
        cpu, wall, waited, files = time.thread_time(), time.monotonic(), 0.0, 0
        try:
            for chunk in self._chunks():
                files += len(chunk)
                for file in self._database.read(partial(registration.unregistered_files, files=chunk)):
                    self.observer.events.put(FileEvent(self._inbox, file.path, EventKind.FOUND, file))
                waited += self._wait_for_intake()
                if self._stop.is_set():
                    return 0
        except ShareUnavailable:  # reported already, or by the next check
            return self._interval()
        seconds = time.monotonic() - wall - waited
        self._presence.record_rescan(self._inbox, RescanReport(self._watch_mode, seconds, files))
        self._component.record_progress(rescans=1)
        return max(
            self._interval(), (time.thread_time() - cpu) / MAX_CPU_FRACTION, seconds / MAX_TIME_FRACTION - seconds
        )

    def _chunks(self) -> Iterator[list[FileVersion]]:
        files: Iterable[FileVersion] = (
            entry.file for entry in directory.walk(self._inbox, self._root) if entry.file is not None
        )
        iterator = iter(files)
        while True:
            with self._filesystem_call():
                chunk = list(islice(iterator, FILES_PER_QUERY))
            if not chunk:
                return
            self._report_progress()
            yield chunk

    def _report_progress(self) -> None:
        self._component.expect_within(f"the rescan of {self._inbox}", RESCAN_STALL_SECONDS)

    def _wait_for_intake(self) -> float:
        """Wait while the intake has too many pending events, which are held in memory. Returns the seconds waited."""
        started = time.monotonic()
        while self.observer.events.qsize() > MAX_PENDING_EVENTS and not self._stop.wait(PENDING_POLL_SECONDS):
            pass
        return time.monotonic() - started

    def _interval(self) -> float:
        """Return the seconds between rescans, as far as their cost allows."""
        settings = self._settings
        if self._watch_mode is WatchMode.EVENTS and self.observer.complete:
            return settings.rescan_seconds
        return min(settings.poll_seconds, settings.rescan_seconds)

    @contextmanager
    def _filesystem_call(self) -> Iterator[None]:
        """Mark a file system call as pending: it may never return, and `report_stall` then says so."""
        self._asked_at = time.monotonic()
        try:
            yield
        finally:
            self._asked_at = None
