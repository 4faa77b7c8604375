"""Turn file events and rescan results into rows, and announce them to the workers.

Each inbox has two threads of its own, so that a share which is slow or does not answer delays no other inbox.
The rescanner (`watcher.rescanner`) compares the folder with the table and reports files without a row. The intake
decides when a file is complete, registers it and announces its scan. Only the intake holds state, so no lock is needed.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Final

from db.health.inbox_presence import InboxPresence
from db.ledger import priority, registration, transitions
from db.ledger.file_version import FileVersion
from db.session import Database
from pneumowatch.component import Component
from pneumowatch.errors import BrokerUnavailable, ShareUnavailable, ShuttingDown
from pneumowatch.logs import get_logger
from pneumowatch.queue import Announcer, component_name
from pneumowatch.settings import Settings
from watcher import directory
from watcher.observer import EventKind, FileEvent
from watcher.rescanner import RESCAN_STALL_SECONDS, Rescanner
from watcher.stability import FileKey, UnsettledFiles

log = get_logger("watcher")

FILES_PER_TRANSACTION: Final = 1000
EVENT_WAIT_SECONDS: Final = 0.5  # longest wait for an event; shutdown is noticed at most this late
BUSY_RETRY_SECONDS: Final = 0.5  # until a file whose scan is running is inspected again
JOIN_SECONDS: Final = 10.0  # at shutdown; a thread that hangs on its share longer is left behind


class Watcher:
    """Watches inboxes until `stop` is set.

    Args:
        inboxes: name -> folder; a folder that is away is watched once it is back.
        stop: set it to end the watcher.
        component: receives progress and status for the heartbeat.
    """

    def __init__(
        self,
        settings: Settings,
        inboxes: dict[str, Path],
        database: Database,
        announcer: Announcer,
        stop: threading.Event,
        component: Component | None = None,
    ) -> None:
        self._stop = stop
        self._presence = InboxPresence(database, settings.mount_grace_seconds)
        component = component or Component("watcher")
        self._intakes = [
            Intake(settings, inbox, root, database, announcer, self._presence, stop, component)
            for inbox, root in inboxes.items()
        ]
        component.set_status("watching")
        self.broken = False
        self.initial_scan_done = InitialScanDone([intake.initial_scan_done for intake in self._intakes])

    @property
    def unsettled(self) -> int:
        """Number of files seen that are not known to be complete."""
        return sum(intake.unsettled for intake in self._intakes)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start the threads of each inbox. On exit all have ended, except those that hang on a share."""
        threads = [
            threading.Thread(target=self._guard, args=(work,), name=name, daemon=True)
            for intake in self._intakes
            for name, work in intake.thread_targets()
        ]
        threads.append(
            threading.Thread(target=self._guard, args=(self._check_stalls,), name="stall-check", daemon=True)
        )
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._join(threads)

    def _join(self, threads: list[threading.Thread]) -> None:
        end = time.monotonic() + JOIN_SECONDS
        for thread in threads:
            thread.join(max(end - time.monotonic(), 0))
        hanging = [thread.name for thread in threads if thread.is_alive()]
        if hanging:
            log.warning("an inbox does not answer; ending without it", threads=hanging)

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except ShuttingDown:
            pass
        except BaseException:
            self.broken = True
            self._stop.set()  # a watcher that lost a thread must end and be restarted as a whole
            raise

    def _check_stalls(self) -> None:
        """Report inboxes that do not answer. Their own threads cannot, because they hang."""
        while not self._stop.wait(EVENT_WAIT_SECONDS):
            for intake in self._intakes:
                intake.rescanner.report_stall()


class InitialScanDone:
    """Set while every known file of every inbox has a row: once the first rescan has been registered."""

    def __init__(self, events: list[threading.Event]) -> None:
        self._events = events

    def is_set(self) -> bool:
        return all(event.is_set() for event in self._events)

    def wait(self, timeout: float) -> bool:
        end = time.monotonic() + timeout
        for event in self._events:
            event.wait(max(end - time.monotonic(), 0))
        return self.is_set()


class Intake:
    """Decides for one inbox when files are complete, registers them and announces their scans."""

    def __init__(
        self,
        settings: Settings,
        inbox: str,
        root: Path,
        database: Database,
        announcer: Announcer,
        presence: InboxPresence,
        stop: threading.Event,
        component: Component,
    ) -> None:
        self._inbox = inbox
        self._root = root
        self._database = database
        self._announcer = announcer
        self._stop = stop
        self._by = component_name("watcher")
        self._component = component
        self._priority_folders = priority.urgent_folder_names(settings.priority_folders)
        self.rescanner = Rescanner(settings, inbox, root, database, presence, stop, component)
        self._event_queue = self.rescanner.observer.events
        self._unsettled = UnsettledFiles(settings.settle_seconds)
        self._busy: dict[FileKey, float] = {}  # -> when to inspect again (monotonic seconds)
        self.initial_scan_done = threading.Event()

    @property
    def unsettled(self) -> int:
        """Number of files seen that are not known to be complete."""
        return len(self._unsettled)

    def thread_targets(self) -> list[tuple[str, Callable[[], None]]]:
        """Return (thread name, function to run) for each thread of this inbox."""
        return [(f"intake {self._inbox}", self._run), (f"rescan {self._inbox}", self.rescanner.run)]

    def _run(self) -> None:
        while not self._stop.is_set():
            self._component.expect_within(f"the intake of {self._inbox}", RESCAN_STALL_SECONDS)
            rescanned = self.rescanner.rescanned.is_set()
            for files in _chunks(self._complete_files(self._next_events())):
                self._register(files)
            if rescanned and not len(self._unsettled) and not self._busy and self._event_queue.empty():
                self.initial_scan_done.set()
            else:
                self.initial_scan_done.clear()

    def _next_events(self) -> dict[FileKey, FileEvent]:
        """Return all pending events, one per path. Waits for the first, at most until a file may have settled."""
        due = [at for at in (self._unsettled.next_due(), *self._busy.values()) if at is not None]
        wait = min([EVENT_WAIT_SECONDS, *(max(at - time.monotonic(), 0) for at in due)])
        latest: dict[FileKey, FileEvent] = {}
        try:
            event = self._event_queue.get(timeout=wait)
            while True:
                key = FileKey(event.inbox, event.path)
                # the last event decides: a file that is written to after it was closed is incomplete again
                latest[key] = latest.get(key, event) if event.kind is EventKind.FOUND else event
                event = self._event_queue.get_nowait()
        except queue.Empty:
            return latest

    def _complete_files(self, events: dict[FileKey, FileEvent]) -> Iterator[FileVersion]:
        """Yield the files that are complete now: files with an event, and files that have settled."""
        now = time.monotonic()
        for key, event in events.items():
            if event.kind is EventKind.FOLDER:
                yield from self._walk_new_folder(key, now)
            elif event.file is not None:
                yield from self._observe(key, now, event.file)
            else:
                yield from self._inspect(key, now, event.kind is EventKind.COMPLETE)
        for key in self._unsettled.due(now):
            yield from self._inspect(key, now, False)
        for key in [key for key, retry_at in self._busy.items() if retry_at <= now]:
            del self._busy[key]
            yield from self._inspect(key, now, True)

    def _inspect(self, key: FileKey, now: float, complete: bool) -> Iterator[FileVersion]:
        entry = directory.inspect(key.inbox, self._root, key.path)
        if entry is None or entry.file is None:
            self._unsettled.forget(key)
        elif complete:
            self._unsettled.forget(key)
            yield entry.file
        else:
            yield from self._observe(key, now, entry.file)

    def _observe(self, key: FileKey, now: float, file: FileVersion) -> Iterator[FileVersion]:
        if self._unsettled.observe(key, file.size, file.mtime_ns, now):
            yield file

    def _walk_new_folder(self, key: FileKey, now: float) -> Iterator[FileVersion]:
        """Observe all files of a new folder. All must settle: the folder may have been moved in, or still be copied."""
        try:
            for entry in directory.walk(key.inbox, self._root, key.path):
                if entry.file is not None:
                    yield from self._observe(FileKey(key.inbox, entry.path), now, entry.file)
        except ShareUnavailable:
            log.warning("an inbox does not answer", inbox=key.inbox)

    def _register(self, files: list[FileVersion]) -> None:
        result = self._database.write(
            lambda connection: registration.register_files(connection, files, self._by, self._priority_folders)
        )
        self._component.record_progress(registered=len(result.to_announce))
        retry_at = time.monotonic() + BUSY_RETRY_SECONDS
        self._busy.update({FileKey(file.inbox, file.path): retry_at for file in result.busy})
        if not result.to_announce:
            return
        log.info(
            "scans registered", count=len(result.to_announce), first=result.to_announce[0], last=result.to_announce[-1]
        )
        try:
            self._announcer.announce(result.to_announce)
        except BrokerUnavailable:
            self._database.write(lambda connection: transitions.mark_unannounced(connection, result.to_announce))
            log.warning("broker does not answer; scans wait in the database", count=len(result.to_announce))


def _chunks(files: Iterable[FileVersion]) -> Iterator[list[FileVersion]]:
    iterator = iter(files)
    while chunk := list(islice(iterator, FILES_PER_TRANSACTION)):
        yield chunk
