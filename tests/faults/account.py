"""Films in against results out."""

from dataclasses import asdict, dataclass, field
from typing import Any, Final

from faults.rig import Rig

GRACE_SECONDS: Final = 30.0  # beyond the lease, within which recovery must end
BUSY: Final = 0.3  # of a core: a part that only waits needs less, a hot loop more
FINAL: Final = ("classified", "rejected", "duplicate", "failed")


@dataclass(frozen=True)
class Account:
    """What became of the films of one fault.

    `lost` are films dropped that have no result, reason or failure of their own; `doubled` counts second predictions,
    second rows of a path, and second endings of a scan. `recovery`: seconds from the end of the fault until each film
    dropped before it was finished. `cpu`: part -> share of a core while it waited, where there was something to wait
    for. `fallen`: parts that ended though nobody asked them to.
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
    fallen: list[str] = field(default_factory=list)
    note: str = ""

    @property
    def complaints(self) -> list[str]:
        """What is not as it should be."""
        whole = {"classified": self.dropped - self.expected_failed}
        whole |= {"failed": self.expected_failed} if self.expected_failed else {}
        hot = [f"{part} was busy while it waited ({share:.0%})" for part, share in self.cpu.items() if share > BUSY]
        checks = {
            f"{self.lost} films are lost": self.lost,
            f"{self.doubled} results are doubled": self.doubled,
            f"the rows' states are {self.states}, not {whole}": self.states != whole,
            f"{self.predictions} predictions were written": self.predictions != whole["classified"],
            f"it took {self.recovery:.0f} seconds to recover": self.recovery > self.lease + GRACE_SECONDS,
            f"{', '.join(self.fallen)} ended": self.fallen,
        }
        return [sentence for sentence, wrong in checks.items() if wrong] + hot

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def finished(rig: Rig, folder: str, before: str = "~") -> int:
    """Films of this folder of the inbox, with names before that one, which have come to an end."""
    sql = (
        "SELECT count(DISTINCT path) FROM scan_ledger "
        "WHERE path >= %s AND path < %s AND finished_at IS NOT NULL AND superseded_by IS NULL"
    )
    return rig.ask(sql, f"{folder}/", f"{folder}/{before}")[0][0]


@dataclass(frozen=True)
class Count:
    """What the database holds of a folder's films."""

    states: dict[str, int]
    predictions: int
    ended: int  # paths whose scan came to an end
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
