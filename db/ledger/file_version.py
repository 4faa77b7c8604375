"""One version of a file, as the watcher sees it."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from db.models import ROUTINE


@dataclass(frozen=True)
class FileVersion:
    """A file in an inbox: raw path bytes relative to it, size in bytes, mtime in integer nanoseconds."""

    inbox: str
    path: bytes
    size: int
    mtime_ns: int
    priority: int = ROUTINE

    @cached_property
    def path_sha256(self) -> bytes:
        return hashlib.sha256(self.path).digest()

    @property
    def text(self) -> str:
        """The path for display: bytes that are not UTF-8 are escaped."""
        return self.path.decode("utf-8", "backslashreplace").replace("\0", "\\x00")

    def row(self) -> dict[str, Any]:
        """Return the row for `db.ledger.statements.insert_queued`: JSON values, bytes in hexadecimal digits."""
        return {
            "inbox": self.inbox,
            "path_sha256": self.path_sha256.hex(),
            "path_bytes": self.path.hex(),
            "path": self.text,
            "size": self.size,
            "mtime_ns": self.mtime_ns,
            "priority": self.priority,
        }
