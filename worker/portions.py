"""Portions: no more films at once than the device's memory holds."""

import re
from collections.abc import Callable
from typing import Final

from pneumowatch.errors import DeviceFull
from pneumowatch.film import Pixels
from pneumowatch.logs import get
from worker.readings import Readings

log = get("worker")

# As TensorFlow, XLA, CUDA's libraries and PyTorch say it. Their classes cannot be named here without loading them.
OUT_OF_MEMORY: Final = re.compile(
    r"resource.?exhausted|out.?of.?memory|OOM when|alloc_failed|failed to allocate", re.IGNORECASE
)
FIRST_PATIENCE: Final = 50  # portions that must fit before a larger one is tried again; doubled where that was vain
LAST_PATIENCE: Final = 3200


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is short, on the device or here: a matter of the machine, not of the films."""
    if isinstance(error, DeviceFull | MemoryError):
        return True
    return OUT_OF_MEMORY.search(f"{type(error).__name__}: {error}") is not None


class Portions:
    """Cuts batches. Where a portion does not fit into memory it is halved, down to one film, and what fitted is what is
    tried next; larger ones are tried again after a while, as the card may be shared with others.

    Args:
        most: films of the largest portion.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = most
        self._fitted = 0  # portions as large as the limit, since it was last changed
        self._patience = FIRST_PATIENCE
        self._on_trial = False  # the limit was raised, and nothing as large has fitted since

    @property
    def limit(self) -> int:
        """Films of the largest portion at present."""
        return self._limit

    def read(self, films: Pixels, read: Callable[[Pixels, int], Readings]) -> Readings:
        """What `read` says of films (n, side, side), in one or more portions.

        Args:
            read: called with up to `limit` films and the limit; raises whatever its library raises.

        Raises DeviceFull where not even one film fits.
        """
        parts: list[Readings] = []
        start = 0
        while start < len(films):
            portion = films[start : start + self._limit]
            try:
                parts.append(read(portion, self._limit))
            except Exception as error:
                if not out_of_memory(error):
                    raise
                self._halve(len(portion), error)
            else:
                start += len(portion)
                self._grow(len(portion))
        return Readings.joined(parts)

    def _halve(self, count: int, error: Exception) -> None:
        if count == 1:
            raise DeviceFull("The memory of this worker's device does not hold one film.") from error
        self._patience = min(2 * self._patience, LAST_PATIENCE) if self._on_trial else FIRST_PATIENCE
        self._limit, self._fitted, self._on_trial = count // 2, 0, False
        log.warning("a batch does not fit into the device's memory; smaller ones for a while", films=self._limit)

    def _grow(self, count: int) -> None:
        if count < self._limit or (self._limit == self._most and not self._on_trial):
            return
        self._on_trial = False
        self._fitted += 1
        if self._fitted >= self._patience and self._limit < self._most:
            self._limit, self._fitted, self._on_trial = min(2 * self._limit, self._most), 0, True
