"""The door: signals of the observer and findings of the patrol become rows, and then messages.

Each inbox has threads of its own, so that a share which is slow, or does not answer at all, delays no other. Two of
them: the patrol (`watcher.patrol`) compares the folder with the table and reports what it does not know; the intake
decides when a file is complete, registers it and rings. Only the intake holds state, so there is nothing to lock.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Final

from db import arrivals, ledger, urgency
from db.presence import Presence
from db.pulse import Part
from db.seen import SeenFile
from db.session import Database
from pneumowatch.errors import BrokerAway, ShareAway, ShuttingDown
from pneumowatch.logs import get
from pneumowatch.queue import Doorbell, part_name
from pneumowatch.settings import Settings
from watcher import rescan
from watcher.observer import Hint, Signal
from watcher.patrol import STUCK_SECONDS, Patrol
from watcher.stability import FileKey, Unsettled

log = get("watcher")

BURST: Final = 1000  # files of one transaction
IDLE_SECONDS: Final = 0.5  # longest wait for a signal; shutdown is noticed this late
BUSY_SECONDS: Final = 0.5  # a file whose scan is being read is looked at again after this
LEAVE_SECONDS: Final = 10.0  # after which a thread that hangs on its share is left behind


class Watcher:
    """Watches inboxes until `stop` is set.

    Args:
        inboxes: name -> folder; those that are away are watched when they come.
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
        self._stop = stop
        self._presence = Presence(database, settings.patience_seconds)
        part = part or Part("watcher")
        self._intakes = [
            Intake(settings, inbox, root, database, doorbell, self._presence, stop, part)
            for inbox, root in inboxes.items()
        ]
        part.say("watching")
        self.broken = False
        self.quiet = Quiet([intake.quiet for intake in self._intakes])

    @property
    def unsettled(self) -> int:
        """Files seen that are not known to be complete."""
        return sum(intake.unsettled for intake in self._intakes)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start the threads of each inbox; leave with all of them ended, but for those that hang on a share."""
        threads = [
            threading.Thread(target=self._guard, args=(work,), name=name, daemon=True)
            for intake in self._intakes
            for name, work in intake.works()
        ]
        threads.append(threading.Thread(target=self._guard, args=(self._call_the_roll,), name="roll", daemon=True))
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._leave(threads)

    def _leave(self, threads: list[threading.Thread]) -> None:
        end = time.monotonic() + LEAVE_SECONDS
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
            self._stop.set()  # a watcher that has lost a thread must end and be started again, not live on half
            raise

    def _call_the_roll(self) -> None:
        """Report inboxes that do not answer: their own threads cannot."""
        while not self._stop.wait(IDLE_SECONDS):
            for intake in self._intakes:
                intake.patrol.report_silence()


class Quiet:
    """Set while every file there was has a row, in every inbox: once the first rescan is worked off."""

    def __init__(self, parts: list[threading.Event]) -> None:
        self._parts = parts

    def is_set(self) -> bool:
        return all(part.is_set() for part in self._parts)

    def wait(self, timeout: float) -> bool:
        end = time.monotonic() + timeout
        for part in self._parts:
            part.wait(max(end - time.monotonic(), 0))
        return self.is_set()


class Intake:
    """The door of one inbox."""

    def __init__(
        self,
        settings: Settings,
        inbox: str,
        root: Path,
        database: Database,
        doorbell: Doorbell,
        presence: Presence,
        stop: threading.Event,
        part: Part,
    ) -> None:
        self._inbox = inbox
        self._root = root
        self._database = database
        self._doorbell = doorbell
        self._stop = stop
        self._by = part_name("watcher")
        self._part = part
        self._urgent = urgency.folders(settings.priority_folders)
        self.patrol = Patrol(settings, inbox, root, database, presence, stop, part)
        self._signals_in = self.patrol.observer.signals
        self._unsettled = Unsettled(settings.settle_seconds)
        self._busy: dict[FileKey, float] = {}  # -> when to look again
        self.quiet = threading.Event()

    @property
    def unsettled(self) -> int:
        """Files seen that are not known to be complete."""
        return len(self._unsettled)

    def works(self) -> list[tuple[str, Callable[[], None]]]:
        """What its threads do, by name."""
        return [(f"intake {self._inbox}", self._take_in), (f"patrol {self._inbox}", self.patrol.run)]

    def _take_in(self) -> None:
        while not self._stop.is_set():
            self._part.promise(f"the intake of {self._inbox}", STUCK_SECONDS)
            rescanned = self.patrol.rescanned.is_set()
            for files in _chunks(self._weigh(self._signals())):
                self._register(files)
            if rescanned and not len(self._unsettled) and not self._busy and self._signals_in.empty():
                self.quiet.set()
            else:
                self.quiet.clear()

    def _signals(self) -> dict[FileKey, Signal]:
        """All signals there are, one a path; waits for the first, but no longer than until a file may have settled."""
        due = [moment for moment in (self._unsettled.next_ripe(), *self._busy.values()) if moment is not None]
        wait = min([IDLE_SECONDS, *(max(moment - time.monotonic(), 0) for moment in due)])
        latest: dict[FileKey, Signal] = {}
        try:
            signal = self._signals_in.get(timeout=wait)
            while True:
                key = FileKey(signal.inbox, signal.path)
                # the last event holds: a file that is written to after it was closed is open again
                latest[key] = latest.get(key, signal) if signal.hint is Hint.FOUND else signal
                signal = self._signals_in.get_nowait()
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
        entry = rescan.look(key.inbox, self._root, key.path)
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
            for entry in rescan.walk(key.inbox, self._root, key.path):
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


def _chunks(files: Iterable[SeenFile]) -> Iterator[list[SeenFile]]:
    iterator = iter(files)
    while chunk := list(islice(iterator, BURST)):
        yield chunk
