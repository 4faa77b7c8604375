"""Which films are kept beside their results, by the setting `keep_images`."""

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
KEEP_ALL: Final = "all"  # and with "judged" alone, whoever records a verdict keeps its film
MAX_PENDING_IMAGES: Final = 500  # films held in memory until there is room, about 50 kB each


class PendingImage(NamedTuple):
    """A film to be kept, and its map, logits (h, w), where the model has one."""

    sha256: str
    pixels: Pixels
    logits: FloatArray | None


class ImageKeeper:
    """Keeps films. A disk that is full costs films, never their outcomes: what could not be written is held in memory,
    up to a bound, and written when there is room; it is said once that films are missing, and once that they are not.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._pending: deque[PendingImage] = deque(maxlen=MAX_PENDING_IMAGES)  # the oldest go first
        self._dropped = 0  # beyond the bound

    def keep(self, images: Sequence[DecodedFile], outcomes: Sequence[Outcome], maps: FloatArray | None = None) -> None:
        """Keep the classified films that are to be kept, each with its map, logits (n, h, w), where there are maps.
        What readers are to see without its being flagged is kept as if it were."""
        to_keep = [
            PendingImage(image.sha256, image.pixels, None if maps is None else maps[number].copy())
            for number, (image, outcome) in enumerate(zip(images, outcomes, strict=True))
            if isinstance(outcome, Classified)
            and is_to_be_kept(self._settings, outcome.worklist_entry.worklist_rank is not None)
        ]
        if not to_keep:
            return
        if not self._pending:  # the usual case: threads need not wait for each other
            to_keep = self._write(to_keep)
        if to_keep:
            with self._lock:
                self._write_pending(to_keep)

    def _write_pending(self, new: Sequence[PendingImage]) -> None:
        """The missing ones first; what is still missing is held."""
        waiting = [*self._pending, *new]
        left = self._write(waiting)
        if left and not self._pending:
            log.error("films cannot be kept: is the disk full? Their results are written, they are kept when it is not")
        if self._pending and not left:
            log.info("films can be kept again", kept=len(waiting), missing=self._dropped)
        self._dropped = self._dropped + max(0, len(left) - MAX_PENDING_IMAGES) if left else 0
        self._pending.clear()
        self._pending.extend(left)

    def _write(self, images: Sequence[PendingImage]) -> list[PendingImage]:
        """Returns those from the first on that could not be written."""
        for number, image in enumerate(images):
            try:
                image_store.store_image(self._settings.data_dir, image.sha256, image.pixels, image.logits)
            except OSError:
                return list(images[number:])
        return []


def is_to_be_kept(settings: Settings, flagged: bool) -> bool:
    return settings.keep_images == KEEP_ALL or (settings.keep_images == KEEP_FLAGGED and flagged)
