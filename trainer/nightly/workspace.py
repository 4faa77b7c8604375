"""The folder in which a training writes before anything of it counts.

One training at a time uses it on this machine, and what a dead one left there is removed.
"""

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
    """A private folder, created by its first writer.

    `previous_token` is the token of the training that used it before. The kernel releases a lock with its process, so
    that training no longer runs.
    """

    scratch: Path
    previous_token: str


@contextmanager
def locked_workspace(data_dir: Path, token: str) -> Iterator[Workspace]:
    """Hold the workspace of this data folder under `token`, and leave nothing in it.

    Raises TrainingError where another training holds it, or it cannot be written to.
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
            raise TrainingError("Another training uses this data folder; wait until it has ended.") from None
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
