"""What processes cost, read from /proc: processor time and memory of one with all its children."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")  # a second of processor time, as /proc/PID/stat counts it
KIB: Final = 1024


@dataclass(frozen=True)
class ResourceUsage:
    """Of a process and its children: user and system seconds so far, resident bytes now and at their highest.

    Bytes are summed over the processes, so that what they share counts for each; the peaks need not have been at one
    moment. Both make the sum too high rather than too low.
    """

    cpu_seconds: float = 0.0
    resident: int = 0
    peak: int = 0

    def __add__(self, other: "ResourceUsage") -> "ResourceUsage":
        return ResourceUsage(
            self.cpu_seconds + other.cpu_seconds, self.resident + other.resident, self.peak + other.peak
        )


def resource_usage(pid: int) -> ResourceUsage:
    """Of this process, the children it has, and (their time only) those that it had and waited for."""
    return sum((_usage_of_one(one) for one in process_tree(pid)), ResourceUsage())


def process_tree(pid: int) -> list[int]:
    """This process and all below it that live."""
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
    """The fields of /proc/PID/stat from the state on (the name before it may hold blanks); none where it is gone."""
    try:
        return (PROC / str(pid) / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return []


def _status(pid: int, field: str) -> int:
    """Bytes; 0 for a process that is gone."""
    try:
        lines = (PROC / str(pid) / "status").read_text("utf-8", "replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * KIB for line in lines if line.startswith(field)), 0)
