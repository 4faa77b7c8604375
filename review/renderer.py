"""Render image files as PNG in child processes.

The review app opens files from untrusted senders. Child processes read them within the same limits as workers: a file
that hangs or crashes its decoder costs its own picture and nothing else.
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

from pneumowatch import sandbox, source_files
from pneumowatch.errors import TOO_MUCH_MEMORY, ImageRejected
from pneumowatch.imaging import reader
from pneumowatch.imaging.reader import Pixels
from pneumowatch.settings import Settings
from pneumowatch.source_files import FileCopy

_T = TypeVar("_T")

RENDER_PROCESSES: Final = 2  # one for the image that is open, one for the next case
MAX_SIDE: Final = 2000  # pixels of the longer side: more than a screen shows, about 2 MB to download
CACHE_BYTES: Final = 128 * 2**20  # of rendered PNGs; about sixty large images
POOL_POLL_SECONDS: Final = 1.0  # between two checks that the pool is active
MAX_ATTEMPTS: Final = 2  # if a child process ended because of another image
PNG_COMPRESSION: Final = 1  # zlib level, the same as in `pneumowatch.imaging.image_store`


@dataclass(frozen=True)
class RenderLimits:
    """Limits for one image: bytes of its file, pixels."""

    max_bytes: int
    max_pixels: int


class Renderer:
    """Renders images and caches the PNGs. Thread-safe. The first image starts the child processes."""

    def __init__(self, settings: Settings) -> None:
        self._limits = RenderLimits(settings.max_bytes, settings.max_pixels)
        self._seconds = settings.decode_seconds
        self._memory = settings.decode_memory
        self._lock = threading.Lock()
        self._pool: ProcessPool | None = None
        self._cache: OrderedDict[str, bytes] = OrderedDict()
        self._pending: dict[str, Future[bytes | None]] = {}

    def render(self, sha256: str, copies: Sequence[FileCopy]) -> bytes | None:
        """Return an image as 8-bit gray PNG with sides of at most `MAX_SIDE` pixels; block until it is rendered.

        Returns:
            None if no copy has these bytes any more.

        Raises:
            ImageRejected: the image cannot be rendered; its sentence says why.
        """
        with self._lock:
            if sha256 in self._cache:
                self._cache.move_to_end(sha256)
                return self._cache[sha256]
            pending = self._pending.get(sha256)
            if pending is None:
                mine = self._pending[sha256] = Future[bytes | None]()
        if pending is not None:  # another request, often a prefetch, is already rendering it
            return pending.result()
        try:
            made = self._run(_render, sha256, copies, MAX_SIDE, self._limits)
        except BaseException as error:
            mine.set_exception(error)
            raise
        else:
            self._store(sha256, made)
            mine.set_result(made)
            return made
        finally:
            with self._lock:
                del self._pending[sha256]

    def render_reduced(self, sha256: str, copies: Sequence[FileCopy], side: int) -> Pixels | None:
        """Return the reduced image that a worker would store, uint8 of shape (side, side).

        Returns None and raises ImageRejected like `render`.
        """
        return self._run(_resize, sha256, copies, side, self._limits)

    def close(self) -> None:
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.stop()
            pool.join()

    def _store(self, sha256: str, made: bytes | None) -> None:
        if made is None:
            return
        with self._lock:
            self._cache[sha256] = made
            while sum(map(len, self._cache.values())) > CACHE_BYTES:
                self._cache.popitem(last=False)

    def _run(self, work: Callable[..., _T], *arguments: Any) -> _T:
        for _ in range(MAX_ATTEMPTS):
            try:
                return self._wait(work, arguments)
            except TimeoutError:
                raise ImageRejected("too_slow", f"Reading it took longer than {self._seconds:g} seconds.") from None
            except MemoryError:
                raise ImageRejected("too_large", TOO_MUCH_MEMORY) from None
            except ProcessExpired as end:
                if end.exitcode != sandbox.OVERGROWN_EXIT_CODE:  # otherwise it ended before it read this image
                    break
            except BrokenProcessPool:  # a child process was killed while idle
                continue
        raise ImageRejected("unreadable", sandbox.DECODER_CRASHED)

    def _wait(self, work: Callable[..., _T], arguments: tuple[Any, ...]) -> _T:
        """Run a task in the pool and return its result.

        Raises BrokenProcessPool if the pool breaks: a broken pool never completes the tasks that it had not started.
        """
        pool = self._ensure_pool()
        future: Future[_T] = pool.schedule(work, args=arguments, timeout=self._seconds)
        while not wait([future], POOL_POLL_SECONDS).done:
            if not pool.active:
                raise BrokenProcessPool
        return future.result()

    def _ensure_pool(self) -> ProcessPool:
        with self._lock:
            if self._pool is not None and not self._pool.active:
                # joining ends the remaining child processes, which may take a while
                threading.Thread(target=self._pool.join, name="join-broken-pool", daemon=True).start()
                self._pool = None
            if self._pool is None:
                context = multiprocessing.get_context("spawn")
                self._pool = ProcessPool(
                    RENDER_PROCESSES, context=context, initializer=sandbox.enter_sandbox, initargs=(self._memory,)
                )
            return self._pool


def _render(sha256: str, copies: Sequence[FileCopy], max_side: int, limits: RenderLimits) -> bytes | None:
    sandbox.exit_if_overgrown()
    data = source_files.read_by_hash(sha256, copies, limits.max_bytes)
    if data is None:
        return None
    file = io.BytesIO()
    reader.read_for_display(data, max_side, limits.max_pixels).save(file, "PNG", compress_level=PNG_COMPRESSION)
    return file.getvalue()


def _resize(sha256: str, copies: Sequence[FileCopy], side: int, limits: RenderLimits) -> Pixels | None:
    sandbox.exit_if_overgrown()
    data = source_files.read_by_hash(sha256, copies, limits.max_bytes)
    return None if data is None else reader.read_pixels(data, side, limits.max_pixels)
