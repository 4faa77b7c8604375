"""The file that a scan was read from, found again: wherever it may stand by now, with the very bytes it had."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from pneumowatch import shared_files
from pneumowatch.errors import ImageRejected, ShareUnavailable

FileCopy = tuple[Path, bytes]  # the root of an inbox, as mounted on this machine, and a raw path beneath it


def read_by_hash(sha256: str, copies: Iterable[FileCopy], max_bytes: int) -> bytes | None:
    """The bytes with this hash, from the first place that still has them; None where they stand nowhere."""
    for root, path in copies:
        try:
            data = shared_files.read_file(root, path, max_bytes).data
        except (ShareUnavailable, ImageRejected):
            continue
        if hashlib.sha256(data).hexdigest() == sha256:
            return data
    return None
