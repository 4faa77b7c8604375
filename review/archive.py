"""The small files of a model's archive that people look at: its pages and pictures.

An archive is only as good as whoever brought it: files are told by name, bounded, and shown where no script runs.
"""

import base64
import hashlib
import io
import re
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Final

from sqlalchemy import Connection

from db import registry
from db.cache import PLAIN
from db.session import Database

SHOWN: Final = {
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".svg": "image/svg+xml",
}
MOST_BYTES: Final = 16 * 2**20  # of one file
MOST_FILES: Final = 64
NOTHING: Final = "'none'"
STYLE: Final = re.compile(rb"<style>(.*?)</style>", re.DOTALL)


@dataclass(frozen=True)
class File:
    """One file of an archive; `body` is there where it can be shown."""

    name: str
    size: int
    body: bytes | None

    @property
    def media_type(self) -> str:
        return SHOWN[PurePosixPath(self.name).suffix]

    @property
    def policy(self) -> str:
        """Content security for it alone: a document without scripts and origin, whose own style sheets apply."""
        sheets = [hashlib.sha256(sheet).digest() for sheet in STYLE.findall(self.body or b"")]
        allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in sheets)
        return (
            f"sandbox; default-src 'none'; img-src data:; style-src {allowed or repr('none')}; frame-ancestors 'none'"
        )


def files(database: Database, version: str) -> tuple[File, ...]:
    """All files of a model, by name; none where the database holds no archive of it. Raises ModelError where there is
    no such model."""

    def sha256(connection: Connection) -> str | None:
        return registry.known(connection).get(version)

    digest = database.read(sha256)
    return _unpacked(database, version, digest) if digest else ()


@lru_cache(maxsize=8)
def _unpacked(database: Database, version: str, sha256: str) -> tuple[File, ...]:
    packed = database.read(lambda connection: registry.archive(connection, version))
    try:
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            entries = [one for one in archive.infolist()[:MOST_FILES] if PLAIN.fullmatch(one.filename)]
            return tuple(File(one.filename, one.file_size, _body(archive, one)) for one in entries)
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError):
        return ()  # workers say what is wrong with it; nothing of it is worth looking at


def _body(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes | None:
    shown = PurePosixPath(entry.filename).suffix in SHOWN
    small = entry.compress_type == zipfile.ZIP_STORED and entry.file_size <= MOST_BYTES
    return archive.read(entry) if shown and small else None
