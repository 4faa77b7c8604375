"""Read a file from a shared folder: only beneath its root, once, and with an error of ours for every failure.

Others write to these folders. A link, pipe or device in the place of an image file is never followed or waited for. A
share that is unavailable is distinguished from a file that is gone.
"""

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pneumowatch import mount_identity
from pneumowatch.errors import ImageRejected, ShareUnavailable
from pneumowatch.mount_identity import MountedFolder

# Errors of a network share that is unavailable, returning or busy, and of a process without free descriptors or memory.
# They say nothing about the file.
UNAVAILABLE_ERRNOS: Final = frozenset(
    {
        errno.EIO, errno.EREMOTEIO, errno.ESTALE, errno.EBUSY, errno.EAGAIN, errno.ETIMEDOUT, errno.ENOTCONN,
        errno.ECONNRESET, errno.ECONNABORTED, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH,
        errno.EMFILE, errno.ENFILE, errno.ENOMEM,
    }
)  # fmt: skip
GROWN_FILE_CHUNK: Final = 2**20  # bytes per read of a file that has grown since it was opened
READ_CHUNK: Final = 2**23  # bytes per read of any other: small enough that a slow share shows progress
_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class FileBytes:
    """A file's content, with its size (bytes) and mtime (integer nanoseconds) at the end of reading."""

    data: bytes
    size: int
    mtime_ns: int


class FileVanished(ImageRejected):
    """The file is not in `folder`, which was found at the inbox's path.

    A share that is not mounted looks like an empty folder: the file is gone only if `folder` is known to be the inbox
    (`db.health.inbox_presence`).
    """

    def __init__(self, folder: MountedFolder) -> None:
        super().__init__("vanished", "The file is no longer there.")
        self.folder = folder


def read_file(root: Path, path: bytes, max_bytes: int, on_progress: Callable[[], None] = lambda: None) -> FileBytes:
    """Read the file `path` (raw bytes, relative) beneath the inbox `root`, following no link on the way.

    `on_progress` is called after each chunk.

    Raises:
        ShareUnavailable: the inbox does not answer.
        FileVanished: the file is not there.
        ImageRejected: `no_permission`, `not_a_file`, `too_large` or `unreadable`.
    """
    try:
        descriptor = _open_beneath(root, path)
    except OSError as error:
        raise _translate(error) from None
    try:
        return _read_whole(descriptor, max_bytes, on_progress)
    except OSError as error:
        raise _translate(error) from None
    finally:
        os.close(descriptor)


def is_unchanged(root: Path, path: bytes, size: int, mtime_ns: int) -> bool:
    """Tell whether a file of this size (bytes) and mtime (nanoseconds) is there now; False where it cannot be read."""
    try:
        status = os.lstat(os.fsencode(root) + b"/" + path)
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(status.st_mode) and (status.st_size, status.st_mtime_ns) == (size, mtime_ns)


def _open_beneath(root: Path, path: bytes) -> int:
    """Open folder by folder, each relative to the one before it, so that no link can lead outside the root."""
    *folders, name = path.split(b"/")
    if b"\0" in path or any(part in (b"", b".", b"..") for part in (*folders, name)):
        raise ImageRejected("not_a_file", "The path does not name a file inside the inbox.")
    try:
        # the root itself may be a link: the operator named it
        inbox = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:  # of whatever kind, expired credentials included: it says nothing about the file
        raise ShareUnavailable("The inbox cannot be opened at present.") from error
    try:
        return _descend(inbox, folders, name)
    except (FileNotFoundError, NotADirectoryError):
        # the folder that was searched, whatever is mounted at its path by now
        raise FileVanished(mount_identity.identify_descriptor(inbox)) from None
    finally:
        os.close(inbox)


def _descend(inbox: int, folders: list[bytes], name: bytes) -> int:
    parent = os.dup(inbox)
    try:
        for folder in folders:
            child = os.open(folder, _FOLDER_FLAGS, dir_fd=parent)
            os.close(parent)
            parent = child
        return os.open(name, _FILE_FLAGS, dir_fd=parent)
    finally:
        os.close(parent)


def _read_whole(descriptor: int, max_bytes: int, on_progress: Callable[[], None]) -> FileBytes:
    before = os.fstat(descriptor)
    if not stat.S_ISREG(before.st_mode):
        raise ImageRejected("not_a_file", "This is a folder, link, pipe or device, not a file.")
    if before.st_size > max_bytes:
        raise ImageRejected("too_large", f"The file has {before.st_size:,} bytes; at most {max_bytes:,} are read.")
    data = bytearray()
    while chunk := os.read(
        descriptor, min(max(before.st_size - len(data), GROWN_FILE_CHUNK if data else 0) + 1, READ_CHUNK)
    ):
        data += chunk
        on_progress()
        if len(data) > max_bytes:  # it grew while it was read
            raise ImageRejected("too_large", f"The file has more than {max_bytes:,} bytes.")
    after = os.fstat(descriptor)
    return FileBytes(bytes(data), after.st_size, after.st_mtime_ns)


def _translate(error: OSError) -> ImageRejected | ShareUnavailable:
    if error.errno in UNAVAILABLE_ERRNOS:
        return ShareUnavailable("The share does not answer.")
    if error.errno in (errno.ELOOP, errno.ENXIO):
        return ImageRejected("not_a_file", "This is a folder, link, pipe or device, not a file.")
    if error.errno in (errno.EACCES, errno.EPERM):
        return ImageRejected("no_permission", "pneumowatch may not read this file; give its user read permission.")
    return ImageRejected("unreadable", f"The file cannot be read: {os.strerror(error.errno or 0)}.")
