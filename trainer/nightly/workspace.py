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

TRAINING_FOLDER: Final = "training"  # beneath the data folder
LOCK_FILE: Final = "lock"


@dataclass(frozen=True)
class Workspace:
    """A folder of one's own, made by whoever first writes to it.

    `previous_token` is the token of whoever worked here before: as the kernel gives a lock up with its process, that one no
    longer works.
    """

    scratch: Path
    previous_token: str


@contextmanager
def locked_workspace(data_dir: Path, token: str) -> Iterator[Workspace]:
    """Hold the workplace of this data folder under one's token, and leave nothing there.

    Raises TrainingError where another training works there, or it cannot be written to.
    """
    folder = data_dir / TRAINING_FOLDER
    scratch = folder / "scratch"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK_FILE).open("a+")
    except OSError as error:
        raise TrainingError(f"{folder} cannot be written to: {error.strerror}.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise TrainingError("Another training works in this data folder; wait until it has ended.") from None
        lock.seek(0)
        previous_token = lock.read()
        lock.truncate(0)
        lock.write(token)
        lock.flush()
        _remove(scratch)
        try:
            yield Workspace(scratch, previous_token)
        finally:
            _remove(scratch)


def _remove(folder: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)
