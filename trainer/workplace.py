"""Where a training writes before anything of it counts: one at a time on this machine, and what a dead one left there
is removed."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pneumowatch.errors import TrainingError

FOLDER: Final = "training"  # beneath the data folder
LOCK: Final = "lock"


@dataclass(frozen=True)
class Workplace:
    """A folder of one's own, made by whoever first writes to it.

    `left_by` is the token of whoever worked here before: as the kernel gives a lock up with its process, that one no
    longer works.
    """

    scratch: Path
    left_by: str


@contextmanager
def occupied(data_dir: Path, token: str) -> Iterator[Workplace]:
    """Hold the workplace of this data folder under one's token, and leave nothing there.

    Raises TrainingError where another training works there, or it cannot be written to.
    """
    folder = data_dir / FOLDER
    scratch = folder / "scratch"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("a+")
    except OSError as error:
        raise TrainingError(f"{folder} cannot be written to: {error.strerror}.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise TrainingError("Another training works in this data folder; wait until it has ended.") from None
        lock.seek(0)
        left_by = lock.read()
        lock.truncate(0)
        lock.write(token)
        lock.flush()
        _remove(scratch)
        try:
            yield Workplace(scratch, left_by)
        finally:
            _remove(scratch)


def _remove(folder: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)
