"""When is a file complete? A pure rule over successive looks at it, and the set of files it has not yet decided on.

A share's clock may be wrong and copies keep their mtimes, so a time stamp says nothing by itself: only that size and
mtime stay as they are while the watcher's own monotonic clock runs.
"""

from dataclasses import dataclass
from typing import NamedTuple


class FileKey(NamedTuple):
    inbox: str
    path: bytes


@dataclass(frozen=True, slots=True)  # there may be a hundred thousand of them
class Look:
    """One look at a file: size in bytes, mtime in nanoseconds, and since when (monotonic seconds) it has been so."""

    size: int
    mtime_ns: int
    since: float


def judge(before: Look | None, size: int, mtime_ns: int, moment: float) -> Look:
    """The look that now holds: the earlier one where nothing changed, else a new one."""
    if before is not None and (before.size, before.mtime_ns) == (size, mtime_ns):
        return before
    return Look(size, mtime_ns, moment)


def is_complete(look: Look, moment: float, settle_seconds: float) -> bool:
    return moment - look.since >= settle_seconds


class Unsettled:
    """Files that were seen and are not known to be complete."""

    def __init__(self, settle_seconds: float) -> None:
        self._settle = settle_seconds
        self._looks: dict[FileKey, Look] = {}

    def __len__(self) -> int:
        return len(self._looks)

    def look(self, key: FileKey, size: int, mtime_ns: int, moment: float) -> bool:
        """Take a look into account. True: the file is complete, and is no longer held here."""
        look = judge(self._looks.get(key), size, mtime_ns, moment)
        if is_complete(look, moment, self._settle):
            self.forget(key)
            return True
        self._looks[key] = look
        return False

    def ripe(self, moment: float) -> list[FileKey]:
        """Files due for the look that decides."""
        return [key for key, look in self._looks.items() if is_complete(look, moment, self._settle)]

    def next_ripe(self) -> float | None:
        """When (monotonic seconds) the first of them will be due."""
        first = min((look.since for look in self._looks.values()), default=None)
        return None if first is None else first + self._settle

    def forget(self, key: FileKey) -> None:
        self._looks.pop(key, None)
