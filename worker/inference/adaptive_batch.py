"""Adapt the batch size to the device's memory."""

import re
from collections.abc import Callable
from typing import Final

from pneumowatch.errors import DeviceOutOfMemory
from pneumowatch.imaging.reader import Pixels
from pneumowatch.logs import get_logger
from worker.inference.model_output import ModelOutput

log = get_logger("worker")

# The words of TensorFlow, XLA, CUDA's libraries and PyTorch. Naming their exception classes would load them.
OUT_OF_MEMORY_PATTERN: Final = re.compile(
    r"resource.?exhausted|out.?of.?memory|OOM when|alloc_failed|failed to allocate", re.IGNORECASE
)
FIRST_GROWTH_INTERVAL: Final = 50  # batches that must fit before a larger one is tried; doubled where that failed
LAST_GROWTH_INTERVAL: Final = 3200


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory is short, on device or host: the machine's fault, not a scan's."""
    if isinstance(error, DeviceOutOfMemory | MemoryError):
        return True
    return OUT_OF_MEMORY_PATTERN.search(f"{type(error).__name__}: {error}") is not None


class AdaptiveBatchSize:
    """Cuts batches to a size that fits into the device's memory.

    A batch that does not fit is halved, down to one image, and the size that fitted is used from then on. Larger sizes
    are tried again after a while, since other programs may share the device.

    Args:
        max_size: images in the largest batch.
    """

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._limit = max_size
        self._successes = 0  # batches as large as the limit that fitted, since the limit last changed
        self._growth_interval = FIRST_GROWTH_INTERVAL
        self._probing = False  # the limit was raised, and no batch of that size has fitted yet

    @property
    def limit(self) -> int:
        """Images in the largest batch at present."""
        return self._limit

    def run(self, images: Pixels, predict: Callable[[Pixels, int], ModelOutput]) -> ModelOutput:
        """Return the output of `predict` for images (n, side, side), computed in one or more batches.

        Args:
            predict: called with up to `limit` images and the limit; raises whatever its library raises.

        Raises DeviceOutOfMemory where not even one image fits.
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
            raise DeviceOutOfMemory("The memory of this worker's device does not hold a single image.") from error
        self._growth_interval = (
            min(2 * self._growth_interval, LAST_GROWTH_INTERVAL) if self._probing else FIRST_GROWTH_INTERVAL
        )
        self._limit, self._successes, self._probing = count // 2, 0, False
        log.warning("a batch does not fit into the device's memory; using smaller batches", images=self._limit)

    def _grow(self, count: int) -> None:
        if count < self._limit or (self._limit == self._max_size and not self._probing):
            return
        self._probing = False
        self._successes += 1
        if self._successes >= self._growth_interval and self._limit < self._max_size:
            self._limit, self._successes, self._probing = min(2 * self._limit, self._max_size), 0, True
