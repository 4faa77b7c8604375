"""Which films are kept beside their results, by the setting `keep_films`."""

import threading
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from db.outcomes import Classified, Outcome
from pneumowatch import kept
from pneumowatch.film import Pixels
from pneumowatch.logs import get
from pneumowatch.settings import Settings
from worker.decode import Decoded
from worker.readings import Floats

log = get("worker")

FLAGGED: Final = "flagged"
ALL: Final = "all"  # and with "judged" alone, whoever records a verdict keeps its film
MOST_MISSING: Final = 500  # films held in memory until there is room, about 50 kB each


class Picture(NamedTuple):
    """A film to be kept, and its map, logits (h, w), where the model has one."""

    sha256: str
    pixels: Pixels
    logits: Floats | None


class Keeper:
    """Keeps films. A disk that is full costs films, never their outcomes: what could not be written is held in memory,
    up to a bound, and written when there is room; it is said once that films are missing, and once that they are not.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._missing: deque[Picture] = deque(maxlen=MOST_MISSING)  # the oldest go first
        self._lost = 0  # beyond the bound

    def keep(self, films: Sequence[Decoded], outcomes: Sequence[Outcome], maps: Floats | None = None) -> None:
        """Keep the classified films that are to be kept, each with its map, logits (n, h, w), where there are maps."""
        wanted_ones = [
            Picture(film.sha256, film.pixels, None if maps is None else maps[number].copy())
            for number, (film, outcome) in enumerate(zip(films, outcomes, strict=True))
            if isinstance(outcome, Classified) and wanted(self._settings, outcome.flagged)
        ]
        if not wanted_ones:
            return
        if not self._missing:  # the usual case: threads need not wait for each other
            wanted_ones = self._write(wanted_ones)
        if wanted_ones:
            with self._lock:
                self._catch_up(wanted_ones)

    def _catch_up(self, more: Sequence[Picture]) -> None:
        """The missing ones first; what is still missing is held."""
        waiting = [*self._missing, *more]
        left = self._write(waiting)
        if left and not self._missing:
            log.error("films cannot be kept: is the disk full? Their results are written, they are kept when it is not")
        if self._missing and not left:
            log.info("films can be kept again", kept=len(waiting), missing=self._lost)
        self._lost = self._lost + max(0, len(left) - MOST_MISSING) if left else 0
        self._missing.clear()
        self._missing.extend(left)

    def _write(self, pictures: Sequence[Picture]) -> list[Picture]:
        """Returns those from the first on that could not be written."""
        for number, picture in enumerate(pictures):
            try:
                kept.write(self._settings.data_dir, picture.sha256, picture.pixels, picture.logits)
            except OSError:
                return list(pictures[number:])
        return []


def wanted(settings: Settings, flagged: bool) -> bool:
    return settings.keep_films == ALL or (settings.keep_films == FLAGGED and flagged)
