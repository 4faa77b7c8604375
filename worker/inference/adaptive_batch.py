"""Portions: no more films at once than the device's memory holds."""

import re
from collections.abc import Callable
from typing import Final

from pneumowatch.errors import DeviceOutOfMemory
from pneumowatch.imaging.reader import Pixels
from pneumowatch.logs import get_logger
from worker.inference.model_output import ModelOutput

log = get_logger("worker")

# As TensorFlow, XLA, CUDA's libraries and PyTorch say it. Their classes cannot be named here without loading them.
OUT_OF_MEMORY_PATTERN: Final = re.compile(
    r"resource.?exhausted|out.?of.?memory|OOM when|alloc_failed|failed to allocate", re.IGNORECASE
)
FIRST_GROWTH_INTERVAL: Final = (
    50  # portions that must fit before a larger one is tried again; doubled where that was vain
)
LAST_GROWTH_INTERVAL: Final = 3200


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is short, on the device or here: a matter of the machine, not of the films."""
    if isinstance(error, DeviceOutOfMemory | MemoryError):
        return True
    return OUT_OF_MEMORY_PATTERN.search(f"{type(error).__name__}: {error}") is not None


class AdaptiveBatchSize:
    """Cuts batches. Where a portion does not fit into memory it is halved, down to one film, and what fitted is what is
    tried next; larger ones are tried again after a while, as the card may be shared with others.

    Args:
        max_size: films of the largest portion.
    """

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._limit = max_size
        self._successes = 0  # portions as large as the limit, since it was last changed
        self._growth_interval = FIRST_GROWTH_INTERVAL
        self._probing = False  # the limit was raised, and nothing as large has fitted since

    @property
    def limit(self) -> int:
        """Films of the largest portion at present."""
        return self._limit

    def run(self, images: Pixels, predict: Callable[[Pixels, int], ModelOutput]) -> ModelOutput:
        """What `predict` says of films (n, side, side), in one or more portions.

        Args:
            predict: called with up to `limit` films and the limit; raises whatever its library raises.

        Raises DeviceOutOfMemory where not even one film fits.
        """
        outputs: list[ModelOutput] = []
        start = 0
        while start < len(images):
            batch = images[start : start + self._limit]
            try:
                outputs.append(predict(batch, self._limit))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self._halve(len(batch), error)
            else:
                start += len(batch)
                self._grow(len(batch))
        return ModelOutput.concatenate(outputs)

    def _halve(self, count: int, error: Exception) -> None:
        if count == 1:
            raise DeviceOutOfMemory("The memory of this worker's device does not hold one film.") from error
        self._growth_interval = (
            min(2 * self._growth_interval, LAST_GROWTH_INTERVAL) if self._probing else FIRST_GROWTH_INTERVAL
        )
        self._limit, self._successes, self._probing = count // 2, 0, False
        log.warning("a batch does not fit into the device's memory; smaller ones for a while", images=self._limit)

    def _grow(self, count: int) -> None:
        if count < self._limit or (self._limit == self._max_size and not self._probing):
            return
        self._probing = False
        self._successes += 1
        if self._successes >= self._growth_interval and self._limit < self._max_size:
            self._limit, self._successes, self._probing = min(2 * self._limit, self._max_size), 0, True
