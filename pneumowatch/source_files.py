"""Find the file of a scan again, wherever it is now, by the hash of its content."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from pneumowatch import shared_files
from pneumowatch.errors import ImageRejected, ShareUnavailable

FileCopy = tuple[Path, bytes]  # an inbox's root, as mounted on this machine, and a raw path beneath it


def read_by_hash(sha256: str, copies: Iterable[FileCopy], max_bytes: int) -> bytes | None:
    """Return the bytes with this hash from the first copy that still has them; None where there is no such copy."""
    for root, path in copies:
        try:
            data = shared_files.read_file(root, path, max_bytes).data
        except (ShareUnavailable, ImageRejected):
            continue
        if hashlib.sha256(data).hexdigest() == sha256:
            return data
    return None
