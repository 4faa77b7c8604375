"""CPU time and memory of a process with all its children, read from /proc."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")  # unit of CPU time in /proc/PID/stat
KIB: Final = 1024


@dataclass(frozen=True)
class ResourceUsage:
    """Usage of a process and its children: user and system seconds so far, resident bytes now and at their peak.

    Bytes are summed over the processes: shared memory counts once per process, and the peaks need not coincide. Both
    make the sum too high rather than too low.
    """

    cpu_seconds: float = 0.0
    resident: int = 0
    peak: int = 0

    def __add__(self, other: "ResourceUsage") -> "ResourceUsage":
        return ResourceUsage(
            self.cpu_seconds + other.cpu_seconds, self.resident + other.resident, self.peak + other.peak
        )


def resource_usage(pid: int) -> ResourceUsage:
    """Return the usage of this process and its children. Of ended children that it waited for, only their CPU time."""
    return sum((_usage_of_one(one) for one in process_tree(pid)), ResourceUsage())


def process_tree(pid: int) -> list[int]:
    """Return the ids of this process and all its living descendants."""
    children: dict[int, list[int]] = {}
    for one, parent in _parents():
        children.setdefault(parent, []).append(one)
    found, look = [], [pid]
    while look:
        one = look.pop()
        found.append(one)
        look += children.get(one, [])
    return found


def _parents() -> Iterator[tuple[int, int]]:
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields:
                yield int(entry.name), int(fields[1])


def _usage_of_one(pid: int) -> ResourceUsage:
    fields = _stat(pid)
    if not fields:
        return ResourceUsage()
    ticks = sum(int(field) for field in fields[11:15])  # user, system, and both of children waited for
    return ResourceUsage(ticks / TICKS_PER_SECOND, _status(pid, "VmRSS:"), _status(pid, "VmHWM:"))


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on, after the name, which may hold blanks; [] when gone."""
    try:
        return (PROC / str(pid) / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return []


def _status(pid: int, field: str) -> int:
    """Return a field of /proc/PID/status in bytes; 0 for a process that is gone."""
    try:
        lines = (PROC / str(pid) / "status").read_text("utf-8", "replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * KIB for line in lines if line.startswith(field)), 0)
