"""Restrict the child processes that decode untrusted files, and end those that have kept too much memory.

They are spawned, never forked (TensorFlow's threads do not survive a fork), and import neither TensorFlow nor the
database.
"""

import multiprocessing
import os
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Final

MAX_GROWTH: Final = 2**28  # bytes that a child may keep from earlier images; the parsers of all formats need a tenth
OVERGROWN_EXIT_CODE: Final = 75  # of a child that has kept more
DECODER_CRASHED: Final = "The image is damaged: its decoder crashed. Export the image again and send it."


_initial_bytes = 0  # memory of this process, if it is a child, before its first image


@contextmanager
def sigint_blocked() -> Iterator[None]:
    """Block SIGINT, so that processes started here ignore Ctrl-C from their first moment, and their children, too.

    Ctrl-C reaches the whole process group of a terminal, but the parent decides when its children end.
    """
    resource_tracker.ensure_running()  # every child needs it, and starting it unblocks SIGINT
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def enter_sandbox(memory: int) -> None:
    """Restrict this child process, as its first action. `memory`: bytes that it may allocate."""
    global _initial_bytes
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # however it was started
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    # C libraries write there about what they find in a file; only the parent may report on files
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold a patient's image
    _, hard_limit = resource.getrlimit(resource.RLIMIT_DATA)
    soft_limit = memory if hard_limit == resource.RLIM_INFINITY else min(memory, hard_limit)
    resource.setrlimit(resource.RLIMIT_DATA, (soft_limit, hard_limit))  # an allocation beyond it raises MemoryError
    threading.Thread(target=_exit_with_parent, name="parent", daemon=True).start()
    _initial_bytes = _data_bytes()


def exit_if_overgrown() -> None:
    """Exit where this process has kept too much memory: decoders leak, and a later image would exceed the limit."""
    if _data_bytes() > _initial_bytes + MAX_GROWTH:
        os._exit(OVERGROWN_EXIT_CODE)


def _data_bytes() -> int:
    """Return the private memory of this process in bytes, as RLIMIT_DATA counts it; see proc_pid_statm(5)."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[5]) * resource.getpagesize()


def _exit_with_parent() -> None:
    """Exit with the parent: one that is killed cannot end a child that hangs on an image."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
