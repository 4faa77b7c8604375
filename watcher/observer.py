"""The thin edge to watchdog: file system events of an inbox become signals on a queue."""

import errno
import logging
import os
import queue
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any, Final

from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import BaseObserver, ObservedWatch
from watchdog.observers.inotify import InotifyFullEmitter, InotifyObserver
from watchdog.observers.inotify_c import InotifyEvent, InotifyFD

from db.ledger.file_version import FileVersion
from pneumowatch.logs import get_logger

log = get_logger("watcher")


class EventKind(Enum):
    """What an event says of a path.

    `opened` and `closed without writing` say nothing, and `modified` says what a look after it or the close at its end
    says too, once for every write of a slow scanner: none of them is listened to.
    """

    COMPLETE = auto()  # closed after writing, or renamed into place
    CREATED = auto()  # nobody said that it is finished: all that a hard link or a copied folder gives
    FOUND = auto()  # the rescan came upon a file that no row knows
    FOLDER = auto()  # a folder appeared; what is in it may have been written before it was watched


@dataclass(frozen=True)
class FileEvent:
    inbox: str
    path: bytes
    kind: EventKind
    file: FileVersion | None = None  # as the rescan saw it


EVENT_FILTER: Final[list[type[FileSystemEvent]]] = [
    FileClosedEvent, FileCreatedEvent, FileMovedEvent, DirCreatedEvent, DirMovedEvent,
]  # fmt: skip


class InboxObserver:
    """Watches an inbox with inotify, while it is told to. A folder that cannot be watched is left to the rescan, with a
    warning.

    Args:
        on_missed: called, from a thread of watchdog's, where the kernel had more events than it keeps, or more folders
            than it watches: what they would have told must be looked for.
    """

    def __init__(self, inbox: str, root: Path, on_missed: Callable[[], None]) -> None:
        self.events: queue.SimpleQueue[FileEvent] = queue.SimpleQueue()
        self._inbox = inbox
        self._root = root
        self._on_missed = on_missed
        self._observer: _InotifyObserver | None = None
        self._watch: tuple[ObservedWatch, tuple[int, int]] | None = None  # with the folder's device and inode
        self._reported_problem = ""

    @property
    def complete(self) -> bool:
        """Whether events tell of every folder in the inbox."""
        return self._watch is not None and self._observer is not None and self._observer.watches_everything

    def watch(self) -> None:
        """Watch the inbox if it is there and is not watched: at the start, and when it has come back as another folder,
        made anew or mounted, of which the watch on the old one says nothing."""
        problem = ""
        try:
            self._schedule()
            if not self.complete:
                problem = "there are more folders than the kernel watches; raise fs.inotify.max_user_watches"
        except OSError as error:
            problem = error.strerror or "the folder cannot be watched"
        if problem and problem != self._reported_problem:
            log.warning("not all file events are seen here; the folder is polled", inbox=self._inbox, why=problem)
        self._reported_problem = problem

    def stop_watching(self) -> None:
        """Watch nothing from now on: events of this folder would not tell enough to be worth their cost."""
        if self._observer is not None:
            observer, self._observer, self._watch = self._observer, None, None
            observer.stop()
            observer.join()

    def _schedule(self) -> None:
        status = self._root.stat()
        identity = status.st_dev, status.st_ino
        if self._observer is None:
            # A folder that is copied in may be watched twice, which does no harm; watchdog's warning of it prints every
            # path that it watches, and paths name patients. So does what it logs of an overflow.
            warnings.filterwarnings("ignore", "Callback with id", RuntimeWarning)
            logging.getLogger("watchdog").setLevel(logging.CRITICAL)
            observer = _InotifyObserver(self._on_missed)
            observer.start()
            self._observer = observer
        if self._watch is not None:
            watch, before = self._watch
            if before == identity and any(one.watch == watch and one.is_alive() for one in self._observer.emitters):
                return
            self._watch = None
            self._observer.unschedule(watch)
        handler = _Handler(self._inbox, self._root, self.events)
        self._observer.out_of_watches = False
        watch = self._observer.schedule(handler, str(self._root), recursive=True, event_filter=EVENT_FILTER)
        self._watch = watch, identity


class _InotifyObserver(InotifyObserver):
    """Watchdog's, with an inotify that says what it could not see."""

    def __init__(self, on_missed: Callable[[], None]) -> None:
        self.out_of_watches = False  # not every folder could be watched
        self._on_missed = on_missed
        self._inotify_fd = _Inotify(on_missed, self._run_out_of_watches)
        self._inotify_fd.start()
        BaseObserver.__init__(self, InotifyFullEmitter, inotify_fd=self._inotify_fd)

    @property
    def watches_everything(self) -> bool:
        return not self.out_of_watches and self._inotify_fd.is_alive()

    def _run_out_of_watches(self) -> None:
        if not self.out_of_watches:
            self.out_of_watches = True
            self._on_missed()


class _Inotify(InotifyFD):
    """Tells of events that the kernel dropped, and of folders that it has no watches left for: watchdog lets both pass
    in silence."""

    def __init__(self, on_overflow: Callable[[], None], on_out_of_watches: Callable[[], None]) -> None:
        super().__init__()
        self._on_overflow = on_overflow
        self._on_out_of_watches = on_out_of_watches

    def handle_event(self, event: InotifyEvent) -> None:
        try:
            super().handle_event(event)  # which watches folders of whose making nothing was heard
        except Exception as error:  # noqa: BLE001 - it would end the thread that reads events, and nobody would know
            log.warning("an event could not be understood; looking through the folder", error=type(error).__name__)
            self._on_overflow()
        if event.is_queue_overflow:
            self._on_overflow()

    def add_callback(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().add_callback(*args, **kwargs)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                self._on_out_of_watches()
            raise


class _Handler(FileSystemEventHandler):
    def __init__(self, inbox: str, root: Path, events: "queue.SimpleQueue[FileEvent]") -> None:
        self._inbox = inbox
        self._prefix = os.path.join(os.fsencode(root), b"")
        self._events = events

    def dispatch(self, event: FileSystemEvent) -> None:
        match event:
            case DirCreatedEvent():
                self._emit(event.src_path, EventKind.FOLDER)
            case DirMovedEvent():
                self._emit(event.dest_path, EventKind.FOLDER)
            case FileMovedEvent():
                self._emit(event.dest_path, EventKind.COMPLETE)
            case FileClosedEvent():
                self._emit(event.src_path, EventKind.COMPLETE)
            case FileCreatedEvent():
                self._emit(event.src_path, EventKind.CREATED)

    def _emit(self, path: str | bytes, kind: EventKind) -> None:
        raw = os.fsencode(path)
        if raw.startswith(self._prefix):
            self._events.put(FileEvent(self._inbox, raw[len(self._prefix) :], kind))
