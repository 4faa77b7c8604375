"""The patrol of one inbox: is it there, and does it hold a file that no row knows?

Events tell of most files at once, where the file system tells of any; the patrol finds the rest, and everything on a
share. It walks the folder and asks the table, a thousand files at a time: nothing is kept in memory.
"""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

from db import arrivals
from db.presence import DOES_NOT_ANSWER, Presence, Rescan
from db.pulse import Part
from db.seen import SeenFile
from db.session import Database
from pneumowatch import place
from pneumowatch.errors import ShareAway
from pneumowatch.settings import Settings
from watcher import mounts, rescan
from watcher.mounts import Watching
from watcher.observer import Hint, Observer, Signal

CHUNK: Final = 1000  # files of one question to the table
BACKLOG: Final = 5000  # signals beyond which the rescan waits for the intake ...
BACKLOG_SECONDS: Final = 0.01  # ... and looks again
LOOK_SECONDS: Final = 5.0  # how often it is looked whether the inbox is there, at least
CPU_SHARE: Final = 0.05  # of one core: rescans that take more come less often
WALL_SHARE: Final = 0.5  # of the time: a share that takes long to list is left alone as long in between
STUCK_SECONDS: Final = 120.0  # without a move, after which a patrol or an intake is stuck
SILENCE_SECONDS: Final = 15.0  # without an answer of the file system, after which the share is away


class Patrol:
    """Compares one inbox with the table until `stop` is set.

    `rescanned` is set once that was done, or the inbox was away. What is found goes to the observer's signals.
    """

    def __init__(
        self,
        settings: Settings,
        inbox: str,
        root: Path,
        database: Database,
        presence: Presence,
        stop: threading.Event,
        part: Part,
    ) -> None:
        self._part = part
        self._settings = settings
        self._inbox = inbox
        self._root = root
        self._database = database
        self._presence = presence
        self._stop = stop
        self._due = threading.Event()  # a rescan, now
        self.observer = Observer(inbox, root, self._due.set)
        self.rescanned = threading.Event()
        self._watching = Watching.POLL
        self._asked: float | None = None  # when the file system was asked what it has not answered yet (monotonic)
        self._reported: float | None = None  # the question whose answer is known to be missing

    def run(self) -> None:
        try:
            self._go_round()
        finally:
            self.observer.rest()

    def report_silence(self) -> None:
        """Say that the inbox is away where the file system has not answered for long. Called by another thread."""
        asked = self._asked
        if asked is not None and asked != self._reported and time.monotonic() - asked >= SILENCE_SECONDS:
            self._reported = asked
            self._presence.miss(self._inbox, self._root, DOES_NOT_ANSWER)

    def _go_round(self) -> None:
        next_rescan, away = 0.0, False
        while not self._stop.is_set():
            self._moved()
            was_away, away = away, not self._is_there()
            if (was_away and not away) or self._due.is_set() or time.monotonic() >= next_rescan:
                self._due.clear()  # first: what overflows from now on may be behind the walk
                next_rescan = time.monotonic() + self._rescan()
                self.rescanned.set()
            self._wait(min(next_rescan - time.monotonic(), self._interval(), LOOK_SECONDS))

    def _wait(self, seconds: float) -> None:
        """Until then, a rescan is due, or the end is near."""
        end = time.monotonic() + seconds
        while not self._stop.is_set() and (left := end - time.monotonic()) > 0 and not self._due.wait(min(left, 0.2)):
            pass

    def _is_there(self) -> bool:
        try:
            here = self._presence.look(self._inbox, self._root, self._question)
            with self._question():
                kind = place.at(self._root).kind
                self._watching = Watching(self._settings.watching.get(self._inbox, mounts.watching(kind)))
                # before the rescan, so that nothing arrives between them
                self.observer.rest() if self._watching is Watching.POLL else self.observer.watch()
            return here
        except (ShareAway, OSError):
            return False

    def _rescan(self) -> float:
        """Returns after how many seconds the next one is due."""
        cpu, wall, waited, files = time.thread_time(), time.monotonic(), 0.0, 0
        try:
            for chunk in self._chunks():
                files += len(chunk)
                for file in self._database.read(partial(arrivals.unknown, files=chunk)):
                    self.observer.signals.put(Signal(self._inbox, file.path, Hint.FOUND, file))
                waited += self._wait_for_the_intake()
                if self._stop.is_set():
                    return 0
        except ShareAway:  # which has been reported, or will be by the next look
            return self._interval()
        seconds = time.monotonic() - wall - waited
        self._presence.rescanned(self._inbox, Rescan(self._watching, seconds, files))
        self._part.did(rescans=1)
        return max(self._interval(), (time.thread_time() - cpu) / CPU_SHARE, seconds / WALL_SHARE - seconds)

    def _chunks(self) -> Iterator[list[SeenFile]]:
        files: Iterable[SeenFile] = (
            entry.file for entry in rescan.walk(self._inbox, self._root) if entry.file is not None
        )
        iterator = iter(files)
        while True:
            with self._question():
                chunk = list(islice(iterator, CHUNK))
            if not chunk:
                return
            self._moved()
            yield chunk

    def _moved(self) -> None:
        self._part.promise(f"the rescan of {self._inbox}", STUCK_SECONDS)

    def _wait_for_the_intake(self) -> float:
        """What it has not taken in stands in memory. Returns the seconds."""
        started = time.monotonic()
        while self.observer.signals.qsize() > BACKLOG and not self._stop.wait(BACKLOG_SECONDS):
            pass
        return time.monotonic() - started

    def _interval(self) -> float:
        """Seconds between rescans that cost next to nothing."""
        given = self._settings
        if self._watching is Watching.EVENTS and self.observer.complete:
            return given.rescan_seconds
        return min(given.poll_seconds, given.rescan_seconds)

    @contextmanager
    def _question(self) -> Iterator[None]:
        """The file system is asked, and may not answer."""
        self._asked = time.monotonic()
        try:
            yield
        finally:
            self._asked = None
