"""Films that were judged are kept, for the trainer: where one is not yet, it is read once more, if it still can be."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from db.reviews import Judged
from pneumowatch import film, kept, share
from pneumowatch.errors import FilmRejected, ShareAway
from pneumowatch.film import Pixels
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
    for place in places:
        if place.sha256 == sha256 and place.inbox in inboxes:
            pixels = _read_again(settings, inboxes[place.inbox], place.path_bytes, sha256, side)
            if pixels is not None:
                kept.write(settings.data_dir, sha256, pixels)
                return True
    return False


def _read_again(settings: Settings, root: Path, path: bytes, sha256: str, side: int) -> Pixels | None:
    """Decoded in this process: these very bytes have passed a decoding child before. None where others stand there."""
    try:
        data = share.read(root, path, settings.max_bytes).data
        if hashlib.sha256(data).hexdigest() != sha256:
            return None
        return film.decode(data, side, settings.max_pixels)
    except (ShareAway, FilmRejected):
        return None
