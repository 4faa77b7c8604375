"""What kind of file system lies under an inbox, and whether it tells of another machine's writes."""

import os
import re
from pathlib import Path
from typing import Final

# inotify sees every write on these. Of network file systems, FUSE and overlays it sees this machine's alone.
TELLING: Final = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "tmpfs", "ramfs", "bcachefs"})
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")  # blanks stand as \040
_MOUNTS: Final = Path("/proc/self/mountinfo")


def kind(path: Path, mountinfo: str | None = None) -> str:
    """The file system type under `path` (`ext4`, `nfs4`, `cifs`, `fuse.sshfs`, ...); `unknown` where none is told."""
    text = mountinfo if mountinfo is not None else _read_mounts()
    best, found = "", "unknown"
    real = os.path.realpath(path)
    for line in text.split("\n"):  # and at nothing else that Python takes for a line's end: names may hold it
        before, _, after = line.partition(" - ")
        fields, what = before.split(" "), after.split(" ")
        if len(fields) < 5:
            continue
        point = _ESCAPED.sub(lambda octal: chr(int(octal[1], 8)), fields[4])
        if len(point) >= len(best) and (real == point or real.startswith(point.rstrip("/") + "/")):
            best, found = point, what[0]
    return found


def tells(path: Path) -> bool:
    """Whether native events alone can be trusted here."""
    return kind(path) in TELLING


def _read_mounts() -> str:
    try:
        return os.fsdecode(_MOUNTS.read_bytes())
    except OSError:
        return ""
