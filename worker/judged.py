"""Films that were judged are kept, for the trainer: where one is not yet, it is read once more, if it still can be."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from db.reviews import Judged
from pneumowatch import film, kept, originals
from pneumowatch.errors import FilmRejected
from pneumowatch.settings import Settings


def keep(settings: Settings, inboxes: Mapping[str, Path], places: Sequence[Judged], side: int) -> bool:
    """Whether the film is kept now.

    Args:
        inboxes: name -> folder, as mounted on this machine.
        places: the judged scan, then its duplicates (`db.reviews.places`).
        side: edge in pixels to which the film is reduced.

    Raises OSError where it cannot be written.
    """
    sha256 = places[0].sha256
    if sha256 is None:
        return False
    if kept.read(settings.data_dir, sha256) is not None:
        return True
    copies = [
        (inboxes[place.inbox], place.path_bytes)
        for place in places
        if place.sha256 == sha256 and place.inbox in inboxes
    ]
    data = originals.read(sha256, copies, settings.max_bytes)
    if data is None:
        return False
    try:
        # in this process: these very bytes have passed a decoding child before
        kept.write(settings.data_dir, sha256, film.decode(data, side, settings.max_pixels))
    except FilmRejected:
        return False
    return True
