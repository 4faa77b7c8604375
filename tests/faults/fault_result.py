"""Compare the images of a fault with their results."""

from dataclasses import asdict, dataclass, field
from typing import Any, Final

from faults.rig import Rig

GRACE_SECONDS: Final = 30.0  # after the lease, within which recovery must end
BUSY: Final = 0.3  # of a core: a component that only waits needs less, a busy loop more
FINAL: Final = ("classified", "rejected", "duplicate", "failed")


@dataclass(frozen=True)
class FaultResult:
    """The outcome of one fault for all its images.

    `lost` counts images that have no result, reason or failure; `doubled` counts second predictions of a scan, second
    rows of a path, and second final states of a scan. `recovery` is the time in seconds from the end of the fault until
    each image dropped before it was finished. `cpu` maps each component to its share of a core during an outage.
    `crashed` lists components that ended unexpectedly.
    """

    name: str
    home: str
    dropped: int
    states: dict[str, int]
    predictions: int
    lost: int
    doubled: int
    recovery: float
    lease: float
    expected_failed: int = 0
    cpu: dict[str, float] = field(default_factory=dict)
    crashed: list[str] = field(default_factory=list)
    note: str = ""

    @property
    def complaints(self) -> list[str]:
        """What went wrong, one sentence each; empty if nothing did."""
        whole = {"classified": self.dropped - self.expected_failed}
        whole |= {"failed": self.expected_failed} if self.expected_failed else {}
        hot = [f"{part} was busy while it waited ({share:.0%})" for part, share in self.cpu.items() if share > BUSY]
        checks = {
            f"{self.lost} images are lost": self.lost,
            f"{self.doubled} results are doubled": self.doubled,
            f"the rows' states are {self.states}, not {whole}": self.states != whole,
            f"{self.predictions} predictions were written": self.predictions != whole["classified"],
            f"it took {self.recovery:.0f} seconds to recover": self.recovery > self.lease + GRACE_SECONDS,
            f"{', '.join(self.crashed)} ended unexpectedly": self.crashed,
        }
        return [sentence for sentence, wrong in checks.items() if wrong] + hot

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def finished(rig: Rig, folder: str, before: str = "~") -> int:
    """Count the finished scans in this folder of the inbox whose file names sort before `before`."""
    sql = (
        "SELECT count(DISTINCT path) FROM scan_ledger "
        "WHERE path >= %s AND path < %s AND finished_at IS NOT NULL AND superseded_by IS NULL"
    )
    return rig.ask(sql, f"{folder}/", f"{folder}/{before}")[0][0]


@dataclass(frozen=True)
class Count:
    """What the database holds about the images of a folder."""

    states: dict[str, int]
    predictions: int
    ended: int  # paths with a finished scan
    doubled: int


def count(rig: Rig, folder: str) -> Count:
    within = "path >= %s AND path < %s"
    span = (f"{folder}/", f"{folder}/~")
    rows = rig.ask(f"SELECT scan_id, path, state FROM scan_ledger WHERE {within}", *span)
    here = f"scan_id IN (SELECT scan_id FROM scan_ledger WHERE {within})"
    predictions = rig.ask(f"SELECT scan_id, count(*) FROM predictions WHERE {here} GROUP BY 1", *span)
    endings = rig.ask(
        f"SELECT scan_id, count(*) FROM scan_events WHERE to_state IN {FINAL} AND {here} GROUP BY 1", *span
    )
    states: dict[str, int] = {}
    for _, _, state in rows:
        states[state] = states.get(state, 0) + 1
    extra = sum(many - 1 for _, many in (*predictions, *endings))
    paths = {path for _, path, _ in rows}
    ended = {path for _, path, state in rows if state in FINAL}
    return Count(states, sum(many for _, many in predictions), len(ended), extra + len(rows) - len(paths))
