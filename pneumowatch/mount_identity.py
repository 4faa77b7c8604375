"""Identify the folder behind a path, to distinguish a share from the empty folder beneath its mount point.

The number of a file system (st_dev, f_fsid) cannot be used: NFS, CIFS and tmpfs get a new one at each mount, and disks
are found in another order. What stays the same is what an administrator would name: the file system's type, its source
(`server:/images`, `/dev/sda1`), the folder inside it, wherever it is mounted, and the folder's inode. The inode
distinguishes a tree that was moved away from an empty one that was made in its place. Where inodes are assigned anew
(CIFS, FUSE), the identity changes although the folder does not; `db.health.inbox_presence` then decides by the files
that are found there.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MOUNTINFO: Final = Path("/proc/self/mountinfo")
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")  # a blank is written as \040
UNKNOWN_FS_TYPE: Final = "unknown"


@dataclass(frozen=True)
class Mount:
    """A line of mountinfo: mount id, mounted folder of the file system, mount point, file system type and source."""

    number: str
    root: str
    point: str
    kind: str
    source: str


@dataclass(frozen=True)
class MountedFolder:
    """The location of an open folder.

    `kind`: file system type (`ext4`, `nfs4`, ...). `mount_point`: where that is mounted on this machine. `identity`:
    the same wherever and whenever the same folder of the same file system is mounted.
    """

    kind: str
    mount_point: str
    identity: str

    def beneath(self, mount_point: str) -> bool:
        """Tell whether this is what a mount at `mount_point` would cover: the share is not mounted there."""
        return mount_point != self.mount_point and _relative_to(mount_point, self.mount_point) is not None


def identify_descriptor(folder: int) -> MountedFolder:
    """Identify an open folder (a file descriptor), even if another is mounted over its path meanwhile."""
    inode = os.fstat(folder).st_ino
    try:
        path = os.fspath(Path(f"/proc/self/fd/{folder}").readlink())
        mount = _mount_of(folder)
    except OSError:  # no /proc here
        path, mount = "", None
    if mount is None:  # unmounted while it is open
        return MountedFolder(UNKNOWN_FS_TYPE, "", escape_non_utf8(f"{UNKNOWN_FS_TYPE} {path} {inode}"))
    inside = os.path.normpath(f"{mount.root}/{_relative_to(path, mount.point) or ''}").replace("//", "/")
    return MountedFolder(
        mount.kind,
        escape_non_utf8(mount.point),
        escape_non_utf8(" ".join([mount.kind, mount.source, inside, str(inode)])),
    )


def identify_folder(root: Path) -> MountedFolder:
    """Identify an inbox's folder. Raises OSError where it cannot be opened."""
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return identify_descriptor(folder)
    finally:
        os.close(folder)


def read_mounts(text: str | None = None) -> Iterator[Mount]:
    """Yield all mounts in the kernel's order: a mount that covers another comes after it."""
    if text is None:
        text = _read_mountinfo()
    for line in text.split("\n"):  # not splitlines(): names may hold other line ends that Python knows
        before, _, after = line.partition(" - ")
        fields, fs_fields = before.split(" "), after.split(" ")
        if len(fields) >= 5:
            source = _unescape(fs_fields[1]) if len(fs_fields) > 1 else ""
            yield Mount(fields[0], _unescape(fields[3]), _unescape(fields[4]), fs_fields[0], source)


def escape_non_utf8(text: str) -> str:
    """Escape bytes that are not UTF-8, as a database accepts no others."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def _mount_of(folder: int) -> Mount | None:
    fields = (line.split() for line in Path(f"/proc/self/fdinfo/{folder}").read_text("ascii").splitlines())
    number = next((value for name, value, *_ in fields if name == "mnt_id:"), None)
    return next((mount for mount in read_mounts() if mount.number == number), None)


def _relative_to(path: str, point: str) -> str | None:
    """Return `path` relative to `point`; None where it is not inside."""
    if path == point:
        return ""
    prefix = point.rstrip("/") + "/"
    return path[len(prefix) :] if path.startswith(prefix) else None


def _unescape(field: str) -> str:
    return _ESCAPED.sub(lambda octal: chr(int(octal[1], 8)), field)


def _read_mountinfo() -> str:
    try:
        return os.fsdecode(MOUNTINFO.read_bytes())
    except OSError:
        return ""
