"""Translate watchdog's file system events of an inbox into `FileEvent`s on a queue."""

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
    """What happened to a path.

    Watchdog's `opened` and `closed without writing` are ignored because they say nothing. `modified` is ignored because
    it comes once per write of a slow scanner, and the closing event or a later look says the same.
    """

    COMPLETE = auto()  # closed after writing, or renamed into place
    CREATED = auto()  # may be unfinished: the only event for a hard link or a copied folder
    FOUND = auto()  # the rescan found a file without a row
    FOLDER = auto()  # a folder appeared; files in it may have been written before it was watched


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
    """Watches an inbox with inotify between `watch` and `stop_watching`.

    A folder that cannot be watched is left to the rescan, with a warning.

    Args:
        on_missed: called from a watchdog thread when the kernel's event queue overflowed, or when there are more
            folders than it can watch. The inbox must then be scanned for what was missed.
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
        """Whether every folder in the inbox is watched."""
        return self._watch is not None and self._observer is not None and self._observer.watches_everything

    def watch(self) -> None:
        """Watch the inbox if it exists and is not watched yet.

        That is at the start, and after the folder was recreated or remounted: a watch on the old folder reports nothing
        about the new one.
        """
        problem = ""
        try:
            self._schedule()
            if not self.complete:
                problem = "there are more folders than the kernel watches; raise fs.inotify.max_user_watches"
        except OSError as error:
            problem = error.strerror or "the folder cannot be watched"
        if problem and problem != self._reported_problem:
            log.warning("some file events are missed; the folder is polled as well", inbox=self._inbox, why=problem)
        self._reported_problem = problem

    def stop_watching(self) -> None:
        """Stop watching: on this folder events report too little to be worth their cost."""
        if self._observer is not None:
            observer, self._observer, self._watch = self._observer, None, None
            observer.stop()
            observer.join()

    def _schedule(self) -> None:
        status = self._root.stat()
        identity = status.st_dev, status.st_ino
        if self._observer is None:
            # A folder that is copied in may be watched twice, which is harmless. Watchdog's warning about it prints
            # every watched path, and paths may name patients. So may its log lines about an overflow.
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
    """Watchdog's observer, with an inotify reader that reports what it missed."""

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
    """Reports events that the kernel dropped, and folders beyond its watch limit. Watchdog ignores both silently."""

    def __init__(self, on_overflow: Callable[[], None], on_out_of_watches: Callable[[], None]) -> None:
        super().__init__()
        self._on_overflow = on_overflow
        self._on_out_of_watches = on_out_of_watches

    def handle_event(self, event: InotifyEvent) -> None:
        try:
            super().handle_event(event)  # also watches new folders whose own event was missed
        except Exception as error:  # noqa: BLE001 - it would silently end the thread that reads events
            log.warning("a file event could not be handled; scanning the folder", error=type(error).__name__)
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
