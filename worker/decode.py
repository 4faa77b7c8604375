"""Decoding in child processes: a file that is bad, hangs or brings its decoder down costs itself and nothing else.

What holds for every such child stands in `pneumowatch.child`.
"""

import hashlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, TimeoutError, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pebble import ProcessExpired, ProcessPool

from pneumowatch import child, film, share
from pneumowatch.errors import TOO_MUCH_MEMORY, FilmRejected, ShareAway
from pneumowatch.header import Header
from pneumowatch.place import Place

CHUNK: Final = 16  # films of one errand; a message to a child costs as much as a small film (8: 2 % fewer films/s)
POOLS: Final = 3  # that are lost over a chunk before that is held against its films
ALARM_SECONDS: Final = 5.0  # within which a child that was due for its alarm has ended
LOOK_SECONDS: Final = 1.0  # how often it is asked whether the pool still lives
UNANSWERED: Final = 100  # exit code, plus the film's number in its errands, of a child whose share does not answer
UNANSWERED_SHARE: Final = 0.5  # of the time that a film may take: a share that gives nothing for so long is away


_in_hand = 0  # number of the film in its errands
_asked: float | None = None  # since when the share has not answered (monotonic seconds)


@dataclass(frozen=True)
class Bounds:
    """What a film may cost: bytes, pixels, seconds of decoding, and bytes of memory in its child."""

    max_bytes: int
    max_pixels: int
    seconds: float
    memory: int = 4 * 2**30


@dataclass(frozen=True)
class Errand:
    """A film to be fetched: which scan, from which inbox root, its raw path bytes beneath it; and the secret under
    which a DICOM header's patient ID is hashed."""

    scan_id: int
    root: Path
    path: bytes
    patient_key: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Decoded:
    """A film's pixels, uint8 (side, side), what the file was when they were read, and what its header says if it is
    DICOM."""

    scan_id: int
    pixels: film.Pixels
    sha256: str
    size: int
    mtime_ns: int
    header: Header | None = None


@dataclass(frozen=True)
class Undecoded:
    """A file without pixels, and why. `size` and `mtime_ns` where it could be read at all, `header` where it is a
    DICOM file that could be read that far."""

    scan_id: int
    reason: str
    sentence: str
    sha256: str | None = None
    size: int | None = None
    mtime_ns: int | None = None
    header: Header | None = None
    place: Place | None = None  # in what the file was not, where it has vanished


@dataclass(frozen=True)
class Away:
    """Its share does not answer, or is not there; nothing is known of the file. `seconds`: when to try again."""

    scan_id: int
    seconds: float = 5.0


Fetched = Decoded | Undecoded | Away


def fetch(errands: Sequence[Errand], side: int, bounds: Bounds) -> list[Fetched]:
    """Read, hash and decode, in this process. What `classify` does at once, a child does for the worker."""
    return [_fetch_one(errand, side, bounds) for errand in errands]


def _fetch_one(errand: Errand, side: int, bounds: Bounds) -> Fetched:
    try:
        with asking() as moved:
            file = share.read(errand.root, errand.path, bounds.max_bytes, moved)
    except ShareAway:
        return Away(errand.scan_id)
    except share.Vanished as fault:
        return Undecoded(errand.scan_id, fault.reason, fault.sentence, place=fault.place)
    except FilmRejected as fault:
        return Undecoded(errand.scan_id, fault.reason, fault.sentence)
    sha256 = hashlib.sha256(file.data).hexdigest()
    try:
        read = film.read(file.data, side, bounds.max_pixels, errand.patient_key)
    except FilmRejected as fault:
        return Undecoded(errand.scan_id, fault.reason, fault.sentence, sha256, file.size, file.mtime_ns, fault.header)
    return Decoded(errand.scan_id, read.pixels, sha256, file.size, file.mtime_ns, read.header)


@contextmanager
def asking() -> Iterator[Callable[[], None]]:
    """The share is asked, and may not answer; what this gives is to be called whenever it does."""
    global _asked

    def moved() -> None:
        global _asked
        _asked = time.monotonic()

    moved()
    try:
        yield moved
    finally:
        _asked = None


@dataclass(frozen=True)
class _Task:
    """An errand list in the hands of a pool, since when, and for how many seconds at most."""

    pool: ProcessPool
    future: "Future[list[Fetched]]"
    seconds: float
    begun: float = field(default_factory=time.monotonic)

    @property
    def cut_short(self) -> bool:
        """Ended for taking too long before it could have: pebble goes by the wall clock, which may have been set."""
        return time.monotonic() - self.begun < self.seconds

    def result(self) -> list[Fetched]:
        """Raises BrokenProcessPool where the pool is lost: it never answers for what it had not begun by then."""
        while not wait([self.future], LOOK_SECONDS).done:
            if not self.pool.active:
                raise BrokenProcessPool
        return self.future.result()


class Decoders:
    """A pool of decoding children, and another one where that is lost.

    Pebble replaces a child that dies over a film. One that dies with nothing to do (killed by the system, short of
    memory) makes it give up the whole pool instead.
    """

    def __init__(self, count: int, bounds: Bounds) -> None:
        self._count = count
        self._bounds = bounds
        self._slow = f"Reading it took longer than {bounds.seconds:g} seconds."
        self._closed = False
        self._renewal = threading.Lock()
        self._pool = self._new_pool()

    def warm(self) -> None:
        """Start the children now, so that the first film does not wait for them."""
        for future in [self._pool.schedule(_nothing) for _ in range(self._count)]:
            future.result()

    def fetch(self, errands: Sequence[Errand], side: int) -> list[Fetched]:
        """Decode in the children, to squares of `side` pixels; blocks until each film has an answer."""
        size = max(1, min(CHUNK, -(-len(errands) // self._count)))
        chunks = [errands[start : start + size] for start in range(0, len(errands), size)]
        waiting = [(chunk, self._schedule(chunk, side)) for chunk in chunks]
        return [fetched for chunk, task in waiting for fetched in self._collect(chunk, side, task)]

    def close(self) -> None:
        with self._renewal:
            self._closed = True
        self._pool.close()
        self._pool.join()

    def _new_pool(self) -> ProcessPool:
        context = multiprocessing.get_context("spawn")
        given = self._bounds.memory, self._bounds.seconds * UNANSWERED_SHARE
        pool = ProcessPool(self._count, context=context, initializer=_prepare_child, initargs=given)
        with child.out_of_reach():
            pool.schedule(_nothing)  # the first task starts the pool's threads, and those the children
        return pool

    def _schedule(self, errands: Sequence[Errand], side: int) -> _Task:
        with self._renewal:
            if not self._pool.active and not self._closed:
                threading.Thread(target=self._pool.join, name="lost-decoders", daemon=True).start()  # ends the others
                self._pool = self._new_pool()
            pool = self._pool
        # pebble's bound, by the wall clock and over all of the errands, is there in case that a child cannot be alarmed
        seconds = len(errands) * self._bounds.seconds + ALARM_SECONDS
        arguments = (fetch, errands, side, self._bounds)
        return _Task(pool, pool.schedule(_fetch_under_alarm, args=arguments, timeout=seconds), seconds)

    def _collect(self, errands: Sequence[Errand], side: int, task: _Task, tries: int = POOLS) -> list[Fetched]:
        """A chunk's films; where one of them cost its child, each is tried again by itself to find out which."""
        try:
            return task.result()
        except TimeoutError:
            if task.cut_short:
                return self._collect(errands, side, self._schedule(errands, side), tries)
            reason, sentence = "too_slow", self._slow
        except ProcessExpired as end:
            if end.exitcode == child.OVERGROWN:  # it ended before it looked at these films
                return self._collect(errands, side, self._schedule(errands, side), tries)
            if 0 <= (number := end.exitcode - UNANSWERED) < len(errands):
                return self._without(errands[number].root, errands, side)
            alarmed = end.exitcode == -signal.SIGALRM
            if not alarmed and len(errands) == 1 and tries == POOLS:  # somebody else may have killed it
                return self._collect(errands, side, self._schedule(errands, side), tries - 1)
            reason, sentence = ("too_slow", self._slow) if alarmed else ("unreadable", child.STOPPER)
        except MemoryError:
            reason, sentence = "too_large", TOO_MUCH_MEMORY
        except BrokenProcessPool:
            if tries > 1:
                return self._collect(errands, side, self._schedule(errands, side), tries - 1)
            reason, sentence = "unreadable", child.STOPPER
        if len(errands) == 1:
            return [Undecoded(errands[0].scan_id, reason, sentence)]
        alone = [[errand] for errand in errands]
        return [fetched for one in alone for fetched in self._collect(one, side, self._schedule(one, side))]

    def _without(self, root: Path, errands: Sequence[Errand], side: int) -> list[Fetched]:
        """The share under `root` does not answer: none of its films is waited for; the others are fetched."""
        others = [errand for errand in errands if errand.root != root]
        fetched = self._collect(others, side, self._schedule(others, side)) if others else []
        answers = {one.scan_id: one for one in fetched}
        return [answers.get(errand.scan_id, Away(errand.scan_id)) for errand in errands]


def _fetch_under_alarm(
    fetch: Callable[[Sequence[Errand], int, Bounds], list[Fetched]],
    errands: Sequence[Errand],
    side: int,
    bounds: Bounds,
) -> list[Fetched]:
    """Fetch one after another; a film that takes too long ends this process, by the kernel's monotonic clock and
    whatever C code it hangs in. `fetch` is handed over, so that a test's reaches the child."""
    global _in_hand
    child.end_if_overgrown()
    fetched = []
    try:
        for _in_hand, errand in enumerate(errands):
            signal.setitimer(signal.ITIMER_REAL, bounds.seconds)
            fetched += fetch([errand], side, bounds)
    finally:  # or it would ring for the next films, or while there are none
        signal.setitimer(signal.ITIMER_REAL, 0)
    return fetched


def _prepare_child(memory: int, unanswered: float) -> None:
    threading.Thread(target=_end_unanswered, args=(unanswered,), name="share", daemon=True).start()
    child.prepare(memory)


def _end_unanswered(seconds: float) -> None:
    """A read that hangs on its share cannot be called back; and the alarm, which ends it too, tells of a slow film."""
    while True:
        time.sleep(min(seconds / 4, LOOK_SECONDS))
        if (asked := _asked) is not None and time.monotonic() - asked > seconds:
            os._exit(UNANSWERED + _in_hand)


def _nothing() -> None:
    return None
