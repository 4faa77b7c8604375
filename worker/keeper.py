"""Which films are kept beside their results, by the setting `keep_films`."""

from collections.abc import Sequence
from typing import Final

from db.outcomes import Classified, Outcome
from pneumowatch import kept
from pneumowatch.logs import get
from pneumowatch.settings import Settings
from worker.decode import Decoded
from worker.readings import Floats

log = get("worker")

FLAGGED: Final = "flagged"
ALL: Final = "all"  # and with "judged" alone, whoever records a verdict keeps its film


def keep(settings: Settings, films: Sequence[Decoded], outcomes: Sequence[Outcome], maps: Floats | None = None) -> None:
    """Keep the classified films that are to be kept, each with its map, logits (h, w), where the model has one.

    A disk that is full costs the films, never their outcomes.
    """
    for number, (film, outcome) in enumerate(zip(films, outcomes, strict=True)):
        # what readers are to see without its being flagged is kept as if it were
        if not isinstance(outcome, Classified) or not wanted(settings, outcome.entry.worklist_rank is not None):
            continue
        try:
            kept.write(settings.data_dir, film.sha256, film.pixels, None if maps is None else maps[number])
        except OSError as error:
            log.error("a film cannot be kept; its result is not touched", scan=film.scan_id, error=error.strerror)


def wanted(settings: Settings, flagged: bool) -> bool:
    return settings.keep_films == ALL or (settings.keep_films == FLAGGED and flagged)
