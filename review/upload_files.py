"""Write uploaded images into the inbox `uploads`, register them and announce them.

A file gets its final name only when all of it is on the disk, so the watcher may treat it as complete. Its name begins
and ends like the original's, because readers search by it and training may tell patients apart by it.
"""

import errno
import os
import re
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from db.ledger import registration, transitions
from db.ledger.file_version import FileVersion
from db.session import Database
from pneumowatch.errors import BrokerUnavailable, UploadRefused
from pneumowatch.inboxes import INBOX_FOLDER_MODE as FOLDER_MODE
from pneumowatch.inboxes import UPLOADS
from pneumowatch.queue import Announcer

TEMPORARY_PREFIX: Final = ".unfinished-"  # the watcher ignores hidden files
UPLOAD_MODE: Final = 0o640
UPLOAD_PRIORITY: Final = 3  # a reader waits for the result: after urgent scans, before routine ones
MAX_STEM_CHARACTERS: Final = 120  # of the original name's stem
MAX_STEM_BYTES: Final = 200  # of the same stem; file systems allow 255 for the whole name
NAME_TOKEN_BYTES: Final = 6
SUFFIX_PATTERN: Final = re.compile(r"\.(jpe?g|jpe|jfif|jp2|j2k|jpx|png|bmp|dib|gif|tiff?|dcm|dicom|ima)", re.IGNORECASE)
DISK_FULL_ERRNOS: Final = (errno.ENOSPC, errno.EDQUOT)
DISK_FULL: Final = (
    "The disk of the review app is full, so no image can be accepted. Tell the administrator of pneumowatch."
)


class IncomingFile:
    """One uploaded file: `write` its bytes, then `finish`.

    As a context manager, it deletes the temporary file of an upload that did not finish.

    Args:
        folder: the folder of the inbox `uploads`; created if missing.
        name: the sender's file name; not trusted.
        max_bytes: maximum size of the file.

    Raises:
        UploadRefused: the file is too large or cannot be written; `write` and `finish` raise it, too.
    """

    def __init__(self, folder: Path, name: str, max_bytes: int) -> None:
        self._folder = folder
        self._name = stored_name(name)
        self._remaining = self._max_bytes = max_bytes
        try:
            folder.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=folder)
        except OSError as error:
            raise _upload_refused(error) from None
        self._file = os.fdopen(descriptor, "wb")
        self._temporary: Path | None = Path(temporary)

    def __enter__(self) -> "IncomingFile":
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._file.close()
        if self._temporary is not None:
            with suppress(OSError):
                self._temporary.unlink()

    def write(self, data: bytes) -> None:
        self._remaining -= len(data)
        if self._remaining < 0:
            raise UploadRefused(f"The file has more than {self._max_bytes:,} bytes and was not accepted.", 413)
        try:
            self._file.write(data)
        except OSError as error:
            raise _upload_refused(error) from None

    def finish(self) -> FileVersion:
        """Put the file into the inbox under its final name, synced to disk, and return its version."""
        assert self._temporary is not None
        path = self._folder / self._name
        try:
            self._file.flush()
            os.fchmod(self._file.fileno(), UPLOAD_MODE)
            os.fsync(self._file.fileno())
            self._temporary.rename(path)
            self._temporary = None
            _fsync_folder(self._folder)
            status = os.fstat(self._file.fileno())
        except OSError as error:
            raise _upload_refused(error) from None
        return FileVersion(UPLOADS, os.fsencode(self._name), status.st_size, status.st_mtime_ns, UPLOAD_PRIORITY)


def stored_name(original: str) -> str:
    """Return a new name for the inbox, safe for any original: `NAME-TOKEN.ENDING`, the ending only of an image format.

    Only the last component of a path is used, without control characters. A leading dot or tilde is removed, and the
    token follows an ending like `.part`: otherwise the watcher would ignore the file.
    """
    last = re.split(r"[/\\]", original)[-1]
    readable = "".join(letter for letter in last if letter.isprintable()).strip(". ~")
    stem, ending = os.path.splitext(readable)  # noqa: PTH122 - an untrusted name, not a path
    if not SUFFIX_PATTERN.fullmatch(ending):
        stem, ending = readable, ""
    stem = (
        stem[:MAX_STEM_CHARACTERS].encode("utf-8", "replace")[:MAX_STEM_BYTES].decode("utf-8", "ignore").strip()
        or "image"
    )
    return f"{stem}-{secrets.token_hex(NAME_TOKEN_BYTES)}{ending.lower()}"


def register_upload(database: Database, announcer: Announcer | None, file: FileVersion, by: str) -> int:
    """Register an uploaded file and announce its scan; return the scan id.

    The watcher may register the same file first; it is never registered twice.
    """
    announced = announcer is not None
    scan_id, to_announce = database.write(lambda c: registration.register_complete_file(c, file, by, announced))
    if announcer is not None and to_announce:
        try:
            announcer.announce(to_announce)
        except BrokerUnavailable:
            database.write(lambda connection: transitions.mark_unannounced(connection, to_announce))
    return scan_id


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _upload_refused(error: OSError) -> UploadRefused:
    if error.errno in DISK_FULL_ERRNOS:
        return UploadRefused(DISK_FULL, 507)
    return UploadRefused(
        f"The review app cannot accept images: its upload folder cannot be written to ({error.strerror}).", 503
    )
