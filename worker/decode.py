"""Decode files in child processes, so that a file that is bad, hangs or crashes its decoder costs only itself.

`pneumowatch.sandbox` holds the limits that apply to every such child.
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

from pneumowatch import sandbox, shared_files
from pneumowatch.errors import TOO_MUCH_MEMORY, ImageRejected, ShareUnavailable
from pneumowatch.header import Header
from pneumowatch.imaging import reader
from pneumowatch.mount_identity import MountedFolder

IMAGES_PER_TASK: Final = 16  # a message to a child costs as much as a small image (with 8: 2 % fewer images/s)
MAX_POOL_LOSSES: Final = 3  # pools lost over one chunk before its files are held to be the cause
ALARM_SECONDS: Final = 5.0  # within which a child has ended after its alarm was due
DECODER_CHECK_SECONDS: Final = 1.0  # how often it is checked whether the pool is alive
SHARE_TIMEOUT_EXIT_CODE: Final = 100  # plus the request's index: exit code of a child whose share does not answer
SHARE_TIMEOUT_FRACTION: Final = 0.5  # of the time limit of a file: a share silent for this long counts as away


_current_index = 0  # of the request that this child is decoding
_share_asked_at: float | None = None  # since when the share has not answered (monotonic seconds)


@dataclass(frozen=True)
class DecoderLimits:
    """Limits for one file: bytes, pixels, seconds of decoding, and bytes of memory in its child."""

    max_bytes: int
    max_pixels: int
    seconds: float
    memory: int = 4 * 2**30


@dataclass(frozen=True)
class DecodeRequest:
    """A file to read and decode: scan id, inbox root, and raw path bytes beneath it.

    `patient_key` is the secret with which the patient ID of a DICOM header is hashed.
    """

    scan_id: int
    root: Path
    path: bytes
    patient_key: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class DecodedFile:
    """A file's pixels, uint8 (side, side), its hash, size and mtime when read, and its header where it is DICOM."""

    scan_id: int
    pixels: reader.Pixels
    sha256: str
    size: int
    mtime_ns: int
    header: Header | None = None


@dataclass(frozen=True)
class DecodeFailure:
    """A file that gave no pixels: reason code and sentence.

    `size` and `mtime_ns` are set where the file could be read, `header` where a DICOM header could be parsed.
    """

    scan_id: int
    reason: str
    sentence: str
    sha256: str | None = None
    size: int | None = None
    mtime_ns: int | None = None
    header: Header | None = None
    searched_folder: MountedFolder | None = None  # the folder that lacked the file, where it has vanished


@dataclass(frozen=True)
class FileUnavailable:
    """A file on a share that is away or does not answer; nothing is known about it. Retry after `seconds`."""

    scan_id: int
    seconds: float = 5.0


DecodeResult = DecodedFile | DecodeFailure | FileUnavailable


def read_and_decode(requests: Sequence[DecodeRequest], side: int, limits: DecoderLimits) -> list[DecodeResult]:
    """Read, hash and decode files in this process: `classify` calls it directly, the worker in a child process."""
    return [_read_and_decode_one(request, side, limits) for request in requests]


def _read_and_decode_one(request: DecodeRequest, side: int, limits: DecoderLimits) -> DecodeResult:
    try:
        with awaiting_share() as answered:
            file = shared_files.read_file(request.root, request.path, limits.max_bytes, answered)
    except ShareUnavailable:
        return FileUnavailable(request.scan_id)
    except shared_files.FileVanished as fault:
        return DecodeFailure(request.scan_id, fault.reason, fault.sentence, searched_folder=fault.folder)
    except ImageRejected as fault:
        return DecodeFailure(request.scan_id, fault.reason, fault.sentence)
    sha256 = hashlib.sha256(file.data).hexdigest()
    try:
        read = reader.read_image(file.data, side, limits.max_pixels, request.patient_key)
    except ImageRejected as fault:
        return DecodeFailure(
            request.scan_id, fault.reason, fault.sentence, sha256, file.size, file.mtime_ns, fault.header
        )
    return DecodedFile(request.scan_id, read.pixels, sha256, file.size, file.mtime_ns, read.header)


@contextmanager
def awaiting_share() -> Iterator[Callable[[], None]]:
    """Mark a read from the share as pending. Yields a function to call whenever the share answers."""
    global _share_asked_at

    def answered() -> None:
        global _share_asked_at
        _share_asked_at = time.monotonic()

    answered()
    try:
        yield answered
    finally:
        _share_asked_at = None


@dataclass(frozen=True)
class _Task:
    """Requests submitted to a pool: since when (monotonic seconds), and for how many seconds at most."""

    pool: ProcessPool
    future: "Future[list[DecodeResult]]"
    seconds: float
    started: float = field(default_factory=time.monotonic)

    @property
    def ended_early(self) -> bool:
        """Whether it was timed out too early: pebble uses the wall clock, which may have been set."""
        return time.monotonic() - self.started < self.seconds

    def result(self) -> list[DecodeResult]:
        """Wait for the results and return them.

        Raises BrokenProcessPool where the pool is lost: it never answers for tasks that it had not started.
        """
        while not wait([self.future], DECODER_CHECK_SECONDS).done:
            if not self.pool.active:
                raise BrokenProcessPool
        return self.future.result()


class DecoderPool:
    """A pool of decoding child processes, replaced by a new pool when it is lost.

    Pebble replaces a child that dies while decoding. When an idle child dies (killed by the system, short of memory),
    pebble gives up the whole pool instead.
    """

    def __init__(self, count: int, limits: DecoderLimits) -> None:
        self._count = count
        self._limits = limits
        self._too_slow_sentence = f"Reading it took longer than {limits.seconds:g} seconds."
        self._closed = False
        self._pool_lock = threading.Lock()
        self._pool = self._new_pool()

    def warm(self) -> None:
        """Start the children now, so that the first scan does not wait for them."""
        for future in [self._pool.schedule(_no_op) for _ in range(self._count)]:
            future.result()

    def decode(self, requests: Sequence[DecodeRequest], side: int) -> list[DecodeResult]:
        """Decode files in the children to squares of `side` pixels; blocks. Returns one result per request in order."""
        size = max(1, min(IMAGES_PER_TASK, -(-len(requests) // self._count)))
        chunks = [requests[start : start + size] for start in range(0, len(requests), size)]
        waiting = [(chunk, self._schedule(chunk, side)) for chunk in chunks]
        return [fetched for chunk, task in waiting for fetched in self._collect(chunk, side, task)]

    def close(self) -> None:
        """Finish what was submitted, then end the children."""
        with self._pool_lock:
            self._closed = True
        self._pool.close()
        self._pool.join()

    def _new_pool(self) -> ProcessPool:
        context = multiprocessing.get_context("spawn")
        given = self._limits.memory, self._limits.seconds * SHARE_TIMEOUT_FRACTION
        pool = ProcessPool(self._count, context=context, initializer=_prepare_child, initargs=given)
        with sandbox.sigint_blocked():
            pool.schedule(_no_op)  # the first task starts the pool's threads, and those the children
        return pool

    def _schedule(self, requests: Sequence[DecodeRequest], side: int) -> _Task:
        with self._pool_lock:
            if not self._pool.active and not self._closed:
                threading.Thread(target=self._pool.join, name="lost-decoders", daemon=True).start()  # ends the others
                self._pool = self._new_pool()
            pool = self._pool
        # pebble's timeout covers all requests, by the wall clock: only for a child that its alarm cannot end
        seconds = len(requests) * self._limits.seconds + ALARM_SECONDS
        arguments = (read_and_decode, requests, side, self._limits)
        return _Task(pool, pool.schedule(_decode_under_alarm, args=arguments, timeout=seconds), seconds)

    def _collect(
        self, requests: Sequence[DecodeRequest], side: int, task: _Task, pools_left: int = MAX_POOL_LOSSES
    ) -> list[DecodeResult]:
        """Return a chunk's results. Where one of its files killed the child, each file is decoded alone to find it."""
        try:
            return task.result()
        except TimeoutError:
            if task.ended_early:
                return self._collect(requests, side, self._schedule(requests, side), pools_left)
            reason, sentence = "too_slow", self._too_slow_sentence
        except ProcessExpired as end:
            if end.exitcode == sandbox.OVERGROWN_EXIT_CODE:  # it exited before it opened these files
                return self._collect(requests, side, self._schedule(requests, side), pools_left)
            if 0 <= (number := end.exitcode - SHARE_TIMEOUT_EXIT_CODE) < len(requests):
                return self._skip_share(requests[number].root, requests, side)
            alarmed = end.exitcode == -signal.SIGALRM
            if not alarmed and len(requests) == 1 and pools_left == MAX_POOL_LOSSES:  # the system may have killed it
                return self._collect(requests, side, self._schedule(requests, side), pools_left - 1)
            reason, sentence = (
                ("too_slow", self._too_slow_sentence) if alarmed else ("unreadable", sandbox.DECODER_CRASHED)
            )
        except MemoryError:
            reason, sentence = "too_large", TOO_MUCH_MEMORY
        except BrokenProcessPool:
            if pools_left > 1:
                return self._collect(requests, side, self._schedule(requests, side), pools_left - 1)
            reason, sentence = "unreadable", sandbox.DECODER_CRASHED
        if len(requests) == 1:
            return [DecodeFailure(requests[0].scan_id, reason, sentence)]
        singles = [[request] for request in requests]
        return [fetched for one in singles for fetched in self._collect(one, side, self._schedule(one, side))]

    def _skip_share(self, root: Path, requests: Sequence[DecodeRequest], side: int) -> list[DecodeResult]:
        """Decode the requests of other shares; mark all files beneath `root` as unavailable, as it does not answer."""
        others = [request for request in requests if request.root != root]
        fetched = self._collect(others, side, self._schedule(others, side)) if others else []
        answers = {one.scan_id: one for one in fetched}
        return [answers.get(request.scan_id, FileUnavailable(request.scan_id)) for request in requests]


def _decode_under_alarm(
    decode: Callable[[Sequence[DecodeRequest], int, DecoderLimits], list[DecodeResult]],
    requests: Sequence[DecodeRequest],
    side: int,
    limits: DecoderLimits,
) -> list[DecodeResult]:
    """Decode one file after another. A file that takes too long ends this process.

    The alarm runs by the kernel's monotonic clock and works whatever C code the process hangs in. `decode` is passed as
    an argument so that a test's replacement reaches the child.
    """
    global _current_index
    sandbox.exit_if_overgrown()
    fetched = []
    try:
        for _current_index, request in enumerate(requests):
            signal.setitimer(signal.ITIMER_REAL, limits.seconds)
            fetched += decode([request], side, limits)
    finally:  # or the alarm would go off during the next files, or while the child is idle
        signal.setitimer(signal.ITIMER_REAL, 0)
    return fetched


def _prepare_child(memory: int, share_timeout: float) -> None:
    threading.Thread(target=_exit_on_share_timeout, args=(share_timeout,), name="share", daemon=True).start()
    sandbox.enter_sandbox(memory)


def _exit_on_share_timeout(seconds: float) -> None:
    """End this child when its share has not answered for `seconds`, with the exit code that names the request.

    A hanging read cannot be cancelled. The alarm would end it too, but then it would count as a slow file.
    """
    while True:
        time.sleep(min(seconds / 4, DECODER_CHECK_SECONDS))
        if (asked := _share_asked_at) is not None and time.monotonic() - asked > seconds:
            os._exit(SHARE_TIMEOUT_EXIT_CODE + _current_index)


def _no_op() -> None:
    return None
