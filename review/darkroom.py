"""The darkroom: children that make a picture of a film's file, whatever the file does to them.

A desk opens files that strangers sent. They are read in a process of their own, within the bounds that hold for
workers, and a file that hangs or brings its decoder down costs its own picture and nothing else.
"""

import io
import multiprocessing
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, TimeoutError, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from pebble import ProcessExpired, ProcessPool

from pneumowatch import child, film, originals
from pneumowatch.errors import TOO_MUCH_MEMORY, FilmRejected
from pneumowatch.film import Pixels
from pneumowatch.originals import Copy
from pneumowatch.settings import Settings

T = TypeVar("T")

CHILDREN: Final = 2  # one for the film that is looked at, one for the next
LONGEST: Final = 2000  # pixels of a picture's longer side: more than a screen shows, and a download of 2 MB
CACHE_BYTES: Final = 128 * 2**20  # of pictures made; about sixty large films
LOOK_SECONDS: Final = 1.0  # how often it is asked whether the pool still lives
TRIES: Final = 2  # of a film whose child ended for another film's sake
QUICK: Final = 1  # zlib's level, as `pneumowatch.kept` has it


@dataclass(frozen=True)
class Bounds:
    """What a film may cost: bytes of its file, pixels."""

    max_bytes: int
    max_pixels: int


class Darkroom:
    """Makes pictures, and remembers some. For as many threads as like; the children start with the first film."""

    def __init__(self, settings: Settings) -> None:
        self._bounds = Bounds(settings.max_bytes, settings.max_pixels)
        self._seconds = settings.decode_seconds
        self._memory = settings.decode_memory
        self._lock = threading.Lock()
        self._pool: ProcessPool | None = None
        self._made: OrderedDict[str, bytes] = OrderedDict()
        self._in_work: dict[str, Future[bytes | None]] = {}

    def picture(self, sha256: str, copies: Sequence[Copy]) -> bytes | None:
        """PNG of a film, 8-bit gray, its sides at most `LONGEST`; blocks until it is made.

        Returns:
            None where no copy has these bytes any more.

        Raises:
            FilmRejected: it cannot be made, with the sentence that says why.
        """
        with self._lock:
            if sha256 in self._made:
                self._made.move_to_end(sha256)
                return self._made[sha256]
            shared = self._in_work.get(sha256)
            if shared is None:
                mine = self._in_work[sha256] = Future[bytes | None]()
        if shared is not None:  # asked for ahead, and now in earnest
            return shared.result()
        try:
            made = self._run(_develop, sha256, copies, LONGEST, self._bounds)
        except BaseException as error:
            mine.set_exception(error)
            raise
        else:
            self._remember(sha256, made)
            mine.set_result(made)
            return made
        finally:
            with self._lock:
                del self._in_work[sha256]

    def reduced(self, sha256: str, copies: Sequence[Copy], side: int) -> Pixels | None:
        """The film as a worker would keep it, uint8 (side, side). Returns and raises as `picture`."""
        return self._run(_reduce, sha256, copies, side, self._bounds)

    def close(self) -> None:
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.stop()
            pool.join()

    def _remember(self, sha256: str, made: bytes | None) -> None:
        if made is None:
            return
        with self._lock:
            self._made[sha256] = made
            while sum(map(len, self._made.values())) > CACHE_BYTES:
                self._made.popitem(last=False)

    def _run(self, work: Callable[..., T], *arguments: Any) -> T:
        for _ in range(TRIES):
            try:
                return self._wait(work, arguments)
            except TimeoutError:
                raise FilmRejected("too_slow", f"Reading it took longer than {self._seconds:g} seconds.") from None
            except MemoryError:
                raise FilmRejected("too_large", TOO_MUCH_MEMORY) from None
            except ProcessExpired as end:
                if end.exitcode != child.OVERGROWN:  # else it ended before it looked at this film
                    break
            except BrokenProcessPool:  # a child was killed while it had nothing to do
                continue
        raise FilmRejected("unreadable", child.STOPPER)

    def _wait(self, work: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        """Raises BrokenProcessPool where the pool is lost: it never answers for what it had not begun by then."""
        pool = self._running()
        future: Future[T] = pool.schedule(work, args=arguments, timeout=self._seconds)
        while not wait([future], LOOK_SECONDS).done:
            if not pool.active:
                raise BrokenProcessPool
        return future.result()

    def _running(self) -> ProcessPool:
        with self._lock:
            if self._pool is not None and not self._pool.active:
                threading.Thread(target=self._pool.join, name="lost-darkroom", daemon=True).start()  # ends the others
                self._pool = None
            if self._pool is None:
                context = multiprocessing.get_context("spawn")
                self._pool = ProcessPool(CHILDREN, context=context, initializer=child.prepare, initargs=(self._memory,))
            return self._pool


def _develop(sha256: str, copies: Sequence[Copy], longest: int, bounds: Bounds) -> bytes | None:
    child.end_if_overgrown()
    data = originals.read(sha256, copies, bounds.max_bytes)
    if data is None:
        return None
    file = io.BytesIO()
    film.picture(data, longest, bounds.max_pixels).save(file, "PNG", compress_level=QUICK)
    return file.getvalue()


def _reduce(sha256: str, copies: Sequence[Copy], side: int, bounds: Bounds) -> Pixels | None:
    child.end_if_overgrown()
    data = originals.read(sha256, copies, bounds.max_bytes)
    return None if data is None else film.decode(data, side, bounds.max_pixels)
