"""The reports and pictures of a model's archive, for the models page.

An archive may come from anywhere and is not trusted: only files with known endings and a bounded size are shown, under
a content security policy without scripts.
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

from db.registry import model_registry
from db.registry.model_cache import MEMBER_NAME
from db.session import Database

MEDIA_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".svg": "image/svg+xml",
}
MAX_SHOWN_BYTES: Final = 16 * 2**20  # larger files are listed, not shown
MAX_SHOWN_FILES: Final = 64
NOTHING: Final = "'none'"
STYLE_ELEMENT: Final = re.compile(rb"<style>(.*?)</style>", re.DOTALL)


@dataclass(frozen=True)
class ArchivedFile:
    """One file of an archive; `content` is None if it cannot be shown."""

    name: str
    size: int
    content: bytes | None

    @property
    def media_type(self) -> str:
        return MEDIA_TYPES[PurePosixPath(self.name).suffix]

    @property
    def content_security_policy(self) -> str:
        """The content security policy of this file: no scripts, no origin, only its own style sheets (by hash)."""
        sheets = [hashlib.sha256(sheet).digest() for sheet in STYLE_ELEMENT.findall(self.content or b"")]
        allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in sheets)
        return (
            f"sandbox; default-src 'none'; img-src data:; style-src {allowed or repr('none')}; frame-ancestors 'none'"
        )


def archived_files(database: Database, version: str) -> tuple[ArchivedFile, ...]:
    """Return all files of a model's archive; none if the database holds no archive of it.

    Raises ModelError if there is no such model.
    """

    def sha256(connection: Connection) -> str | None:
        return model_registry.archive_hashes(connection).get(version)

    digest = database.read(sha256)
    return _unpack(database, version, digest) if digest else ()


@lru_cache(maxsize=8)
def _unpack(database: Database, version: str, sha256: str) -> tuple[ArchivedFile, ...]:
    packed = database.read(lambda connection: model_registry.model_archive(connection, version))
    try:
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            entries = [one for one in archive.infolist()[:MAX_SHOWN_FILES] if MEMBER_NAME.fullmatch(one.filename)]
            return tuple(ArchivedFile(one.filename, one.file_size, _content(archive, one)) for one in entries)
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError):
        return ()  # a broken archive: the workers log what is wrong with it


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes | None:
    shown = PurePosixPath(entry.filename).suffix in MEDIA_TYPES
    small = entry.compress_type == zipfile.ZIP_STORED and entry.file_size <= MAX_SHOWN_BYTES
    return archive.read(entry) if shown and small else None
