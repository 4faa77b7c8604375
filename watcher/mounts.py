"""What kind of file system lies under an inbox, and whether it tells of another machine's writes."""

import os
from pathlib import Path
from typing import Final

# inotify sees every write on these. Of network file systems, FUSE and overlays it sees this machine's alone.
TELLING: Final = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "tmpfs", "ramfs", "bcachefs"})
_MOUNTS: Final = Path("/proc/self/mountinfo")


def kind(path: Path, mountinfo: str | None = None) -> str:
    """The file system type under `path` (`ext4`, `nfs4`, `cifs`, `fuse.sshfs`, ...); `unknown` where none is told."""
    text = mountinfo if mountinfo is not None else _read_mounts()
    best, found = "", "unknown"
    real = os.path.realpath(path)
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, what = before.split(" "), after.split(" ")
        if len(fields) < 5:
            continue
        point = fields[4].encode().decode("unicode_escape")  # blanks stand as \040
        if len(point) >= len(best) and (real == point or real.startswith(point.rstrip("/") + "/")):
            best, found = point, what[0]
    return found


def tells(path: Path) -> bool:
    """Whether native events alone can be trusted here."""
    return kind(path) in TELLING


def _read_mounts() -> str:
    try:
        return _MOUNTS.read_text("utf-8", "replace")
    except OSError:
        return ""
