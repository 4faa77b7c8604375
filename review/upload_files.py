"""Films handed in at the desk: written into the inbox `uploads`, whole or not at all, and announced like any other.

A file appears under its name when all of it is on the disk, so whoever finds it there, the watcher as well, may take it
for complete. Its name begins and ends as the original's, by which readers search and which may tell the patient apart.
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

TEMPORARY_PREFIX: Final = ".unfinished-"  # hidden: the watcher passes it over
UPLOAD_MODE: Final = 0o640
UPLOAD_PRIORITY: Final = 3  # somebody waits at the desk: behind what is urgent, before the routine
MAX_STEM_CHARACTERS: Final = 120  # characters of the original name's stem that are kept, and ...
MAX_STEM_BYTES: Final = 200  # ... bytes; file systems take 255 in all
NAME_TOKEN_BYTES: Final = 6
SUFFIX_PATTERN: Final = re.compile(r"\.(jpe?g|jpe|jfif|jp2|j2k|jpx|png|bmp|dib|gif|tiff?|dcm|dicom|ima)", re.IGNORECASE)
DISK_FULL_ERRNOS: Final = (errno.ENOSPC, errno.EDQUOT)
DISK_FULL: Final = (
    "The disk of the review app is full: there is no room for more images. Tell whoever looks after pneumowatch."
)


class IncomingFile:
    """One film on its way in: `write` its bytes, then `finish`. As a context it leaves nothing of what is cut off.

    Args:
        folder: of the inbox `uploads`; made where it is not there.
        name: as the sender has it; anything may stand in it.
        max_bytes: of the film.

    Raises:
        UploadRefused: also from `write` and `finish`.
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
            raise UploadRefused(f"The file has more than {self._max_bytes:,} bytes, and is not taken in.", 413)
        try:
            self._file.write(data)
        except OSError as error:
            raise _upload_refused(error) from None

    def finish(self) -> FileVersion:
        """The file stands in the inbox, and survives a power cut."""
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
    """A new name in the inbox, whatever the original is: `NAME-TOKEN.ENDING`, the ending only if it is a film's.

    Only the last part of a path counts, and no control characters. What begins with a dot or a tilde, or ends like a
    copy in progress, the watcher would pass over.
    """
    last = re.split(r"[/\\]", original)[-1]
    readable = "".join(letter for letter in last if letter.isprintable()).strip(". ~")
    stem, ending = os.path.splitext(readable)  # noqa: PTH122 - no path, as nothing in it is trusted
    if not SUFFIX_PATTERN.fullmatch(ending):
        stem, ending = readable, ""
    stem = (
        stem[:MAX_STEM_CHARACTERS].encode("utf-8", "replace")[:MAX_STEM_BYTES].decode("utf-8", "ignore").strip()
        or "image"
    )
    return f"{stem}-{secrets.token_hex(NAME_TOKEN_BYTES)}{ending.lower()}"


def register_upload(database: Database, announcer: Announcer | None, file: FileVersion, by: str) -> int:
    """Register a delivered film and ring for it. Returns its scan.

    The watcher may have been quicker; whoever comes first registers it, and nobody does so twice.
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
        f"The review app cannot accept images: its folder for them cannot be written to ({error.strerror}).", 503
    )
