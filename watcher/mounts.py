"""What kind of file system lies under an inbox, whether it tells of another machine's writes, and what follows."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Final

from pneumowatch import place

# inotify sees every write on these. Of network file systems, FUSE and overlays it sees this machine's alone.
TELLING: Final = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "tmpfs", "ramfs", "bcachefs"})
# On these no other machine need write: what inotify tells is welcome, and a container's own folder is one.
HALF_TELLING: Final = frozenset({"overlay", "aufs", "fuse.fuse-overlayfs", "fuseblk", "virtiofs"})

_MOUNTS: Final = place.MOUNTS


class Watching(StrEnum):
    """How an inbox is watched."""

    EVENTS = "events"  # inotify tells; the folder is compared with the table once a minute besides
    POLL = "poll"  # the folder is compared with the table every few seconds
    BOTH = "both"  # and inotify tells what it sees


def kind(path: Path, mountinfo: str | None = None) -> str:
    """The file system type under `path` (`ext4`, `nfs4`, `cifs`, `fuse.sshfs`, ...); `unknown` where none is told."""
    best, found = "", place.UNKNOWN
    real = os.path.realpath(path)
    for mount in place.mounted(_read_mounts() if mountinfo is None else mountinfo):
        point = mount.point
        if len(point) >= len(best) and (real == point or real.startswith(point.rstrip("/") + "/")):
            best, found = point, mount.kind
    return found


def tells(path: Path) -> bool:
    """Whether native events alone can be trusted here."""
    return watching(kind(path)) is Watching.EVENTS


def watching(kind: str) -> Watching:
    """How a folder on this type of file system is watched, unless a setting says otherwise."""
    if kind in TELLING:
        return Watching.EVENTS
    return Watching.BOTH if kind in HALF_TELLING else Watching.POLL


def _read_mounts() -> str:
    try:
        return os.fsdecode(_MOUNTS.read_bytes())
    except OSError:
        return ""
