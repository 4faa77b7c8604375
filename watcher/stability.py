"""Decide when a file is complete: a pure rule over successive observations, and the set of undecided files.

A share's clock may be wrong and copies keep their mtimes, so a time stamp alone says nothing. A file is complete when
its size and mtime stay unchanged while the watcher's own monotonic clock runs.
"""

from dataclasses import dataclass
from typing import NamedTuple


class FileKey(NamedTuple):
    inbox: str
    path: bytes


@dataclass(frozen=True, slots=True)  # there may be a hundred thousand of them
class Observation:
    """A file's size in bytes, its mtime in nanoseconds, and since when (monotonic seconds) both are unchanged."""

    size: int
    mtime_ns: int
    since: float


def next_observation(previous: Observation | None, size: int, mtime_ns: int, now: float) -> Observation:
    """Return the previous observation where nothing changed, else a new one that starts `now`."""
    if previous is not None and (previous.size, previous.mtime_ns) == (size, mtime_ns):
        return previous
    return Observation(size, mtime_ns, now)


def is_complete(observation: Observation, now: float, settle_seconds: float) -> bool:
    return now - observation.since >= settle_seconds


class UnsettledFiles:
    """Files that were seen and are not known to be complete."""

    def __init__(self, settle_seconds: float) -> None:
        self._settle = settle_seconds
        self._observations: dict[FileKey, Observation] = {}

    def __len__(self) -> int:
        return len(self._observations)

    def observe(self, key: FileKey, size: int, mtime_ns: int, now: float) -> bool:
        """Record an observation. Returns True where the file is complete; it is then forgotten."""
        observation = next_observation(self._observations.get(key), size, mtime_ns, now)
        if is_complete(observation, now, self._settle):
            self.forget(key)
            return True
        self._observations[key] = observation
        return False

    def due(self, now: float) -> list[FileKey]:
        """Return the files that have waited long enough to be inspected again."""
        return [key for key, observation in self._observations.items() if is_complete(observation, now, self._settle)]

    def next_due(self) -> float | None:
        """Return when (monotonic seconds) the first file will be due; None where there is none."""
        first = min((observation.since for observation in self._observations.values()), default=None)
        return None if first is None else first + self._settle

    def forget(self, key: FileKey) -> None:
        self._observations.pop(key, None)
