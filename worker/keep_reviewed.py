"""Keep the images of reviewed scans for the trainer: an image not kept yet is read once more, if it still can be."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from db.ledger.queries import FileLocation
from pneumowatch import source_files
from pneumowatch.errors import ImageRejected
from pneumowatch.imaging import image_store, reader
from pneumowatch.settings import Settings


def keep_reviewed_image(
    settings: Settings, inboxes: Mapping[str, Path], locations: Sequence[FileLocation], side: int
) -> bool:
    """Keep the image of a reviewed scan. Returns whether it is kept now.

    Args:
        inboxes: name -> folder, as mounted on this machine.
        locations: the reviewed scan, then its duplicates (`db.ledger.queries.file_locations`).
        side: edge in pixels to which the image is reduced.

    Raises OSError where the image cannot be written.
    """
    sha256 = locations[0].sha256
    if sha256 is None:
        return False
    if image_store.load_image(settings.data_dir, sha256) is not None:
        return True
    copies = [
        (inboxes[location.inbox], location.path_bytes)
        for location in locations
        if location.sha256 == sha256 and location.inbox in inboxes
    ]
    data = source_files.read_by_hash(sha256, copies, settings.max_bytes)
    if data is None:
        return False
    try:
        # decoded in this process: the same bytes have passed a sandboxed child before
        image_store.store_image(settings.data_dir, sha256, reader.read_pixels(data, side, settings.max_pixels))
    except ImageRejected:
        return False
    return True
