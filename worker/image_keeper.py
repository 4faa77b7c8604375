"""Keep the images of classified scans in the data folder, as the setting `keep_images` says."""

import threading
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from db.ledger.outcomes import Classified, Outcome
from pneumowatch.imaging import image_store
from pneumowatch.imaging.reader import Pixels
from pneumowatch.logs import get_logger
from pneumowatch.settings import Settings
from worker.decode import DecodedFile
from worker.inference.model_output import FloatArray

log = get_logger("worker")

KEEP_FLAGGED: Final = "flagged"
KEEP_ALL: Final = "all"  # with the third value, "judged", images are kept only when a verdict is recorded
MAX_PENDING_IMAGES: Final = 500  # held in memory until the disk has room, about 50 kB each


class PendingImage(NamedTuple):
    """An image to be kept, with its map, logits (h, w), where the model has one."""

    sha256: str
    pixels: Pixels
    logits: FloatArray | None


class ImageKeeper:
    """Writes images to the data folder. A full disk may cost images, never outcomes.

    Images that could not be written are held in memory, up to a bound, and written when there is room. The log says
    once that images are missing, and once that they can be written again.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._pending: deque[PendingImage] = deque(maxlen=MAX_PENDING_IMAGES)  # the oldest go first
        self._dropped = 0  # beyond the bound

    def keep(self, images: Sequence[DecodedFile], outcomes: Sequence[Outcome], maps: FloatArray | None = None) -> None:
        """Keep the images of the classified scans, as far as the setting says.

        `maps`: logits (n, h, w), one map per image, where the model has maps. Unflagged scans that are sampled for
        readers are kept as if they were flagged.
        """
        to_keep = [
            PendingImage(image.sha256, image.pixels, None if maps is None else maps[number].copy())
            for number, (image, outcome) in enumerate(zip(images, outcomes, strict=True))
            if isinstance(outcome, Classified)
            and is_to_be_kept(self._settings, outcome.worklist_entry.worklist_rank is not None)
        ]
        if not to_keep:
            return
        if not self._pending:  # the usual case, without the lock: threads need not wait for each other
            to_keep = self._write(to_keep)
        if to_keep:
            with self._lock:
                self._write_pending(to_keep)

    def _write_pending(self, new: Sequence[PendingImage]) -> None:
        """Write the pending images, then the new ones, and hold what still cannot be written."""
        waiting = [*self._pending, *new]
        left = self._write(waiting)
        if left and not self._pending:
            log.error("images cannot be kept: is the disk full? Results are still written; images are retried")
        if self._pending and not left:
            log.info("images can be kept again", kept=len(waiting), missing=self._dropped)
        self._dropped = self._dropped + max(0, len(left) - MAX_PENDING_IMAGES) if left else 0
        self._pending.clear()
        self._pending.extend(left)

    def _write(self, images: Sequence[PendingImage]) -> list[PendingImage]:
        """Write images in order. Returns the images from the first failure on."""
        for number, image in enumerate(images):
            try:
                image_store.store_image(self._settings.data_dir, image.sha256, image.pixels, image.logits)
            except OSError:
                return list(images[number:])
        return []


def is_to_be_kept(settings: Settings, flagged: bool) -> bool:
    """Tell whether the setting keeps the image of a scan; `flagged` includes unflagged scans sampled for readers."""
    return settings.keep_images == KEEP_ALL or (settings.keep_images == KEEP_FLAGGED and flagged)
