"""The thin edge to watchdog: file system events of all inboxes become signals on one queue."""

import os
import queue
import warnings
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Final

from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import ObservedWatch
from watchdog.observers.inotify import InotifyObserver

from db.seen import SeenFile
from pneumowatch.logs import get

log = get("watcher")


class Hint(Enum):
    """What an event says of a path.

    `opened` and `closed without writing` say nothing, and `modified` says what a look after it or the close at its end
    says too, once for every write of a slow scanner: none of them is listened to.
    """

    COMPLETE = auto()  # closed after writing, or renamed into place
    CREATED = auto()  # nobody said that it is finished: all that a hard link or a copied folder gives
    FOUND = auto()  # the rescan came upon a file that no row knows
    FOLDER = auto()  # a folder appeared; what is in it may have been written before it was watched


@dataclass(frozen=True)
class Signal:
    inbox: str
    path: bytes
    hint: Hint
    file: SeenFile | None = None  # as the rescan saw it


EVENTS: Final[list[type[FileSystemEvent]]] = [
    FileClosedEvent, FileCreatedEvent, FileMovedEvent, DirCreatedEvent, DirMovedEvent,
]  # fmt: skip


class Observer:
    """Watches inboxes with inotify. A folder that cannot be watched is left to the rescan, with a warning."""

    def __init__(self, inboxes: dict[str, Path]) -> None:
        self.signals: queue.SimpleQueue[Signal] = queue.SimpleQueue()
        self._inboxes = inboxes
        self._observer = InotifyObserver(generate_full_events=True)
        self._watches: dict[str, tuple[ObservedWatch, tuple[int, int]]] = {}  # with the folder's device and inode
        self._unwatched: set[str] = set()

    def start(self) -> None:
        # A folder that is copied in may be watched twice, which does no harm; watchdog's warning of it prints every
        # path that it watches, and paths name patients.
        warnings.filterwarnings("ignore", "Callback with id", RuntimeWarning)
        self._observer.start()
        self.watch()

    def watch(self) -> None:
        """Watch each inbox that is there and is not watched: at the start, and when it has come back as another folder,
        made anew or mounted, of which the watch on the old one says nothing."""
        for inbox, root in self._inboxes.items():
            try:
                self._watch(inbox, root)
                self._unwatched.discard(inbox)
            except OSError as error:
                if inbox not in self._unwatched:
                    log.warning("no file events here; the folder is rescanned", inbox=inbox, error=error.strerror)
                self._unwatched.add(inbox)

    def _watch(self, inbox: str, root: Path) -> None:
        status = root.stat()
        identity = status.st_dev, status.st_ino
        if inbox in self._watches:
            watch, before = self._watches[inbox]
            if before == identity and any(one.watch == watch and one.is_alive() for one in self._observer.emitters):
                return
            del self._watches[inbox]
            self._observer.unschedule(watch)
        handler = _Handler(inbox, root, self.signals)
        watch = self._observer.schedule(handler, str(root), recursive=True, event_filter=EVENTS)
        self._watches[inbox] = watch, identity

    def stop(self) -> None:
        self._observer.stop()
        self._observer.join()


class _Handler(FileSystemEventHandler):
    def __init__(self, inbox: str, root: Path, signals: "queue.SimpleQueue[Signal]") -> None:
        self._inbox = inbox
        self._prefix = os.path.join(os.fsencode(root), b"")
        self._signals = signals

    def dispatch(self, event: FileSystemEvent) -> None:
        match event:
            case DirCreatedEvent():
                self._say(event.src_path, Hint.FOLDER)
            case DirMovedEvent():
                self._say(event.dest_path, Hint.FOLDER)
            case FileMovedEvent():
                self._say(event.dest_path, Hint.COMPLETE)
            case FileClosedEvent():
                self._say(event.src_path, Hint.COMPLETE)
            case FileCreatedEvent():
                self._say(event.src_path, Hint.CREATED)

    def _say(self, path: str | bytes, hint: Hint) -> None:
        raw = os.fsencode(path)
        if raw.startswith(self._prefix):
            self._signals.put(Signal(self._inbox, raw[len(self._prefix) :], hint))
