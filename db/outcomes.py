"""What passes between the ledger and a worker: the scans it holds, and what became of each."""

from dataclasses import dataclass
from datetime import datetime

from db.states import Reason


@dataclass(frozen=True)
class ClaimedScan:
    """What a worker needs to know of a scan that it holds."""

    id: int
    inbox: str
    path_bytes: bytes
    size: int
    mtime_ns: int
    changed_at: datetime
    deaths: int


@dataclass(frozen=True)
class Claim:
    """Scans taken together, under one token. `suspect`: one scan, held when a worker died; to be read alone."""

    token: str
    scans: tuple[ClaimedScan, ...]

    @property
    def suspect(self) -> bool:
        return self.scans[0].deaths > 0


@dataclass(frozen=True)
class Classified:
    scan_id: int
    sha256: str
    probability: float
    flagged: bool
    threshold: float
    model_version: str
    caution: str | None = None


@dataclass(frozen=True)
class Rejected:
    scan_id: int
    reason: Reason
    sentence: str
    sha256: str | None = None


@dataclass(frozen=True)
class Deferred:
    """To be read later, the attempt uncounted; `size` and `mtime_ns` where the file has changed under its row."""

    scan_id: int
    not_before: datetime
    detail: str
    size: int | None = None
    mtime_ns: int | None = None


Outcome = Classified | Rejected | Deferred
