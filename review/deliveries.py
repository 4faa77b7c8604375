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

from sqlalchemy import Connection, select

from db import arrivals, ledger
from db.models import Scan
from db.seen import SeenFile
from db.session import Database
from pneumowatch.errors import BrokerAway, UploadRefused
from pneumowatch.inboxes import MODE as FOLDER_MODE
from pneumowatch.inboxes import UPLOADS
from pneumowatch.queue import Doorbell

UNFINISHED: Final = ".unfinished-"  # hidden: the watcher passes it over
MODE: Final = 0o640
PRIORITY: Final = 3  # somebody waits at the desk: behind what is urgent, before the routine
LONGEST: Final = 120  # characters of the original name's stem that are kept, and ...
LONGEST_BYTES: Final = 200  # ... bytes; file systems take 255 in all
TOKEN_BYTES: Final = 6
ENDING: Final = re.compile(r"\.(jpe?g|jpe|jfif|jp2|j2k|jpx|png|bmp|dib|gif|tiff?|dcm|dicom|ima)", re.IGNORECASE)
FULL: Final = (errno.ENOSPC, errno.EDQUOT)
NO_ROOM: Final = "There is no room for films left on the desk's disk; tell whoever looks after pneumowatch."


class Delivery:
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
        self._left = self._max_bytes = max_bytes
        try:
            folder.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
            descriptor, unfinished = tempfile.mkstemp(prefix=UNFINISHED, dir=folder)
        except OSError as error:
            raise _cannot(error) from None
        self._file = os.fdopen(descriptor, "wb")
        self._unfinished: Path | None = Path(unfinished)

    def __enter__(self) -> "Delivery":
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._file.close()
        if self._unfinished is not None:
            with suppress(OSError):
                self._unfinished.unlink()

    def write(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            raise UploadRefused(f"The file has more than {self._max_bytes:,} bytes, and is not taken in.", 413)
        try:
            self._file.write(data)
        except OSError as error:
            raise _cannot(error) from None

    def finish(self) -> SeenFile:
        """The file stands in the inbox, and survives a power cut."""
        assert self._unfinished is not None
        path = self._folder / self._name
        try:
            self._file.flush()
            os.fchmod(self._file.fileno(), MODE)
            os.fsync(self._file.fileno())
            self._unfinished.rename(path)
            self._unfinished = None
            _sync_folder(self._folder)
            status = os.fstat(self._file.fileno())
        except OSError as error:
            raise _cannot(error) from None
        return SeenFile(UPLOADS, os.fsencode(self._name), status.st_size, status.st_mtime_ns, PRIORITY)


def stored_name(original: str) -> str:
    """A new name in the inbox, whatever the original is: `NAME-TOKEN.ENDING`, the ending only if it is a film's.

    Only the last part of a path counts, and no control characters. What begins with a dot or a tilde, or ends like a
    copy in progress, the watcher would pass over.
    """
    last = re.split(r"[/\\]", original)[-1]
    readable = "".join(letter for letter in last if letter.isprintable()).strip(". ~")
    stem, ending = os.path.splitext(readable)  # noqa: PTH122 - no path, as nothing in it is trusted
    if not ENDING.fullmatch(ending):
        stem, ending = readable, ""
    stem = stem[:LONGEST].encode("utf-8", "replace")[:LONGEST_BYTES].decode("utf-8", "ignore").strip() or "film"
    return f"{stem}-{secrets.token_hex(TOKEN_BYTES)}{ending.lower()}"


def announce(database: Database, doorbell: Doorbell | None, file: SeenFile, by: str) -> int:
    """Register a delivered film and ring for it. Returns its scan.

    The watcher may have been quicker; whoever comes first registers it, and nobody does so twice.
    """

    def register(connection: Connection) -> tuple[int, list[int]]:
        to_ring = arrivals.arrive(connection, [file], by).to_ring
        scan_id = _scan_of(connection, file)
        ledger.settled(connection, scan_id)
        if doorbell is None:
            ledger.unring(connection, to_ring)
        return scan_id, to_ring

    scan_id, to_ring = database.write(register)
    if doorbell is not None and to_ring:
        try:
            doorbell.ring(to_ring)
        except BrokerAway:
            database.write(lambda connection: ledger.unring(connection, to_ring))
    return scan_id


def _scan_of(connection: Connection, file: SeenFile) -> int:
    same = (Scan.path_sha256 == file.path_sha256, Scan.inbox == file.inbox)
    return connection.scalars(
        select(Scan.id).where(*same, Scan.size == file.size, Scan.mtime_ns == file.mtime_ns)
    ).one()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cannot(error: OSError) -> UploadRefused:
    if error.errno in FULL:
        return UploadRefused(NO_ROOM, 507)
    return UploadRefused(
        f"The desk cannot take films in: its folder for them cannot be written to ({error.strerror}).", 503
    )
