"""Child processes that read strangers' files: what each is told before its first film, and when it has had enough.

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

MAX_GROWTH: Final = (
    2**28
)  # bytes that a child may keep from earlier films; the parsers of all kinds take a tenth of that
OVERGROWN_EXIT_CODE: Final = 75  # exit code of a child that has kept more
DECODER_CRASHED: Final = "The image is damaged in a way that stops its decoder."


_initial_bytes = 0  # bytes that this process held, if it is a child, before its first film


@contextmanager
def sigint_blocked() -> Iterator[None]:
    """What is started here, and by that in turn, is out of reach of Ctrl-C from its first moment, which reaches the
    whole terminal group: the parent decides when its children end."""
    resource_tracker.ensure_running()  # every child needs it, and whoever starts it is within reach from then on
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def enter_sandbox(memory: int) -> None:
    """To be the first that a child does. `memory`: bytes that it may take."""
    global _initial_bytes
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it, and however
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    # C libraries complain there of what they find in a file; nobody but the parent speaks of films
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would hold a patient's film
    _, hard_limit = resource.getrlimit(resource.RLIMIT_DATA)
    soft_limit = memory if hard_limit == resource.RLIM_INFINITY else min(memory, hard_limit)
    resource.setrlimit(
        resource.RLIMIT_DATA, (soft_limit, hard_limit)
    )  # a child that asks for more is refused: MemoryError
    threading.Thread(target=_exit_with_parent, name="parent", daemon=True).start()
    _initial_bytes = _data_bytes()


def exit_if_overgrown() -> None:
    """A decoder leaks; the next film would pay for it. Ends this process where it has kept too much."""
    if _data_bytes() > _initial_bytes + MAX_GROWTH:
        os._exit(OVERGROWN_EXIT_CODE)


def _data_bytes() -> int:
    """Of this process' private memory, as RLIMIT_DATA counts it; see proc_pid_statm(5)."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[5]) * resource.getpagesize()


def _exit_with_parent() -> None:
    """A parent that is killed cannot end a child that hangs over a film."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
