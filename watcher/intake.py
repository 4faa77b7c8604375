"""The door: signals of the observer and findings of the rescan become rows, and then messages.

Two threads. The rescan compares the folders with the table and reports what it does not know; the intake decides when a
file is complete, registers it and rings. Only the intake holds state, so there is nothing to lock.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

from db import arrivals, ledger, urgency
from db.pulse import Part
from db.seen import SeenFile
from db.session import Database
from pneumowatch.errors import BrokerAway, ShareAway, ShuttingDown
from pneumowatch.logs import get
from pneumowatch.queue import Doorbell, part_name
from pneumowatch.settings import Settings
from watcher import mounts, rescan
from watcher.observer import Hint, Observer, Signal
from watcher.stability import FileKey, Unsettled

log = get("watcher")

BURST: Final = 1000  # files of one transaction
BACKLOG: Final = 5000  # signals beyond which the rescan waits for the intake ...
BACKLOG_SECONDS: Final = 0.01  # ... and looks again
IDLE_SECONDS: Final = 0.5  # longest wait for a signal; shutdown is noticed this late
BUSY_SECONDS: Final = 0.5  # a file whose scan is being read is looked at again after this
STUCK_SECONDS: Final = 120.0  # without a move of the intake, or of a rescan, ...
INTERVALS: Final = 3  # ... for that long after it was to begin
SHARE_RESCAN_SECONDS: Final = 5.0  # where events cannot be trusted


class Watcher:
    """Watches inboxes until `stop` is set.

    Args:
        inboxes: name -> folder; each must exist.
        stop: set by whoever wants it to end.
        part: is told what gets done.
    """

    def __init__(
        self,
        settings: Settings,
        inboxes: dict[str, Path],
        database: Database,
        doorbell: Doorbell,
        stop: threading.Event,
        part: Part | None = None,
    ) -> None:
        self._part = part or Part("watcher")
        self._settings = settings
        self._inboxes = inboxes
        self._database = database
        self._doorbell = doorbell
        self._stop = stop
        self._by = part_name("watcher")
        self._urgent = urgency.folders(settings.priority_folders)
        self._observer = Observer(inboxes)
        self._unsettled = Unsettled(settings.settle_seconds)
        self._busy: dict[FileKey, float] = {}  # -> when to look again
        self._rescanned = threading.Event()
        self.broken = False
        self.quiet = threading.Event()  # every file there was has a row: set once the first rescan is worked off

    @property
    def unsettled(self) -> int:
        """Files seen that are not known to be complete."""
        return len(self._unsettled)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start both threads and the observer; leave with all of them ended."""
        self._observer.start()  # before the first rescan, so that nothing arrives between them
        threads = [
            threading.Thread(target=self._guard, args=(work,), name=work.__name__.strip("_"))
            for work in (self._take_in, self._rescan_all)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()
            self._observer.stop()

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except ShuttingDown:
            pass
        except BaseException:
            self.broken = True
            self._stop.set()  # a watcher that has lost a thread must end and be started again, not live on half
            raise

    # the intake

    def _take_in(self) -> None:
        while not self._stop.is_set():
            self._part.promise("the intake of files", STUCK_SECONDS)
            rescanned = self._rescanned.is_set()
            for files in _chunks(self._weigh(self._signals())):
                self._register(files)
            if rescanned and not len(self._unsettled) and not self._busy and self._observer.signals.empty():
                self.quiet.set()
            else:
                self.quiet.clear()

    def _signals(self) -> dict[FileKey, Signal]:
        """All signals there are, one a path; waits for the first, but no longer than until a file may have settled."""
        due = [moment for moment in (self._unsettled.next_ripe(), *self._busy.values()) if moment is not None]
        wait = min([IDLE_SECONDS, *(max(moment - time.monotonic(), 0) for moment in due)])
        latest: dict[FileKey, Signal] = {}
        try:
            signal = self._observer.signals.get(timeout=wait)
            while True:
                key = FileKey(signal.inbox, signal.path)
                # the last event holds: a file that is written to after it was closed is open again
                latest[key] = latest.get(key, signal) if signal.hint is Hint.FOUND else signal
                signal = self._observer.signals.get_nowait()
        except queue.Empty:
            return latest

    def _weigh(self, signals: dict[FileKey, Signal]) -> Iterator[SeenFile]:
        """The files that are complete now, of those signalled and of those that have settled."""
        moment = time.monotonic()
        for key, signal in signals.items():
            if signal.hint is Hint.FOLDER:
                yield from self._open_folder(key, moment)
            elif signal.file is not None:
                yield from self._settle(key, moment, signal.file)
            else:
                yield from self._look(key, moment, signal.hint is Hint.COMPLETE)
        for key in self._unsettled.ripe(moment):
            yield from self._look(key, moment, False)
        for key in [key for key, again in self._busy.items() if again <= moment]:
            del self._busy[key]
            yield from self._look(key, moment, True)

    def _look(self, key: FileKey, moment: float, complete: bool) -> Iterator[SeenFile]:
        entry = rescan.look(key.inbox, self._inboxes[key.inbox], key.path)
        if entry is None or entry.file is None:
            self._unsettled.forget(key)
        elif complete:
            self._unsettled.forget(key)
            yield entry.file
        else:
            yield from self._settle(key, moment, entry.file)

    def _settle(self, key: FileKey, moment: float, file: SeenFile) -> Iterator[SeenFile]:
        if self._unsettled.look(key, file.size, file.mtime_ns, moment):
            yield file

    def _open_folder(self, key: FileKey, moment: float) -> Iterator[SeenFile]:
        """A folder moved in brings finished files, one that is being copied brings unfinished ones: all must settle."""
        try:
            for entry in rescan.walk(key.inbox, self._inboxes[key.inbox], key.path):
                if entry.file is not None:
                    yield from self._settle(FileKey(key.inbox, entry.path), moment, entry.file)
        except ShareAway:
            log.warning("an inbox does not answer", inbox=key.inbox)

    def _register(self, files: list[SeenFile]) -> None:
        result = self._database.write(lambda connection: arrivals.arrive(connection, files, self._by, self._urgent))
        self._part.did(registered=len(result.to_ring))
        again = time.monotonic() + BUSY_SECONDS
        self._busy.update({FileKey(file.inbox, file.path): again for file in result.busy})
        if not result.to_ring:
            return
        log.info("films registered", count=len(result.to_ring), first=result.to_ring[0], last=result.to_ring[-1])
        try:
            self._doorbell.ring(result.to_ring)
        except BrokerAway:
            self._database.write(lambda connection: ledger.unring(connection, result.to_ring))
            log.warning("broker does not answer; films wait in the database", count=len(result.to_ring))

    # the rescan

    def _rescan_all(self) -> None:
        trusted = all(mounts.tells(root) for root in self._inboxes.values())
        interval = (
            self._settings.rescan_seconds if trusted else min(self._settings.rescan_seconds, SHARE_RESCAN_SECONDS)
        )
        while True:
            self._observer.watch()  # before the rescan, so that nothing arrives between them
            self._part.say("comparing the folders with the table")
            for inbox, root in self._inboxes.items():
                self._rescan(inbox, root)
                self._part.promise(f"the rescan of {inbox}", STUCK_SECONDS + INTERVALS * interval)
            self._part.did(rescans=1)
            self._part.say("watching")
            self._rescanned.set()
            if self._stop.wait(interval):
                return

    def _rescan(self, inbox: str, root: Path) -> None:
        try:
            self._part.promise(f"the rescan of {inbox}", STUCK_SECONDS)
            for files in _chunks(entry.file for entry in rescan.walk(inbox, root) if entry.file is not None):
                self._part.promise(f"the rescan of {inbox}", STUCK_SECONDS)
                for file in self._database.read(partial(arrivals.unknown, files=files)):
                    self._observer.signals.put(Signal(inbox, file.path, Hint.FOUND, file))
                while self._observer.signals.qsize() > BACKLOG and not self._stop.wait(BACKLOG_SECONDS):
                    pass  # the intake is slower; what it has not taken in stands in memory
                if self._stop.is_set():
                    return
        except ShareAway as error:
            log.warning("an inbox does not answer", inbox=inbox, error=str(error))


def _chunks(files: Iterable[SeenFile]) -> Iterator[list[SeenFile]]:
    iterator = iter(files)
    while chunk := list(islice(iterator, BURST)):
        yield chunk
