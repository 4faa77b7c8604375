"""Find the file system under an inbox, and whether it reports another machine's writes: events or polling."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Final

from pneumowatch import mount_identity

# inotify sees every write on these. On network file systems, FUSE and overlays it sees only this machine's writes.
EVENT_FILESYSTEMS: Final = frozenset(
    {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "tmpfs", "ramfs", "bcachefs"}
)
# Often only this machine writes to these (a container's own folder is one): events are used, and polling besides.
PARTIAL_EVENT_FILESYSTEMS: Final = frozenset({"overlay", "aufs", "fuse.fuse-overlayfs", "fuseblk", "virtiofs"})

_MOUNT_INFO: Final = mount_identity.MOUNTINFO


class WatchMode(StrEnum):
    """How an inbox is watched."""

    EVENTS = "events"  # inotify reports files; besides, the folder is compared with the table once a minute
    POLL = "poll"  # the folder is compared with the table every few seconds
    BOTH = "both"  # as `poll`, and inotify reports what it sees


def filesystem_type(path: Path, mountinfo: str | None = None) -> str:
    """Return the file system type under `path` (`ext4`, `nfs4`, `cifs`, `fuse.sshfs`, ...), or `unknown`."""
    deepest, filesystem = "", mount_identity.UNKNOWN_FS_TYPE
    real = os.path.realpath(path)
    for mount in mount_identity.read_mounts(_read_mounts() if mountinfo is None else mountinfo):
        point = mount.point
        if len(point) >= len(deepest) and (real == point or real.startswith(point.rstrip("/") + "/")):
            deepest, filesystem = point, mount.kind
    return filesystem


def events_suffice(path: Path) -> bool:
    """Tell whether native events alone report every write to this folder."""
    return default_watch_mode(filesystem_type(path)) is WatchMode.EVENTS


def default_watch_mode(kind: str) -> WatchMode:
    """Return how a folder on this type of file system is watched, unless a setting says otherwise."""
    if kind in EVENT_FILESYSTEMS:
        return WatchMode.EVENTS
    return WatchMode.BOTH if kind in PARTIAL_EVENT_FILESYSTEMS else WatchMode.POLL


def _read_mounts() -> str:
    try:
        return os.fsdecode(_MOUNT_INFO.read_bytes())
    except OSError:
        return ""
