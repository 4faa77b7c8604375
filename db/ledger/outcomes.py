"""What passes between the ledger and a worker: the scans it holds, and what became of each."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from db.ledger.sampling import WorklistEntry, worklist_entry
from db.states import Reason
from pneumowatch.header import Header

# columns of a scan that hold what its header says, named as the header's fields
HEADER_COLUMNS: Final = (
    "study_uid",
    "series_uid",
    "sop_uid",
    "accession_number",
    "modality",
    "view_position",
    "age_years",
    "sex",
    "patient_key",
)


@dataclass(frozen=True)
class ClaimedScan:
    """What a worker needs to know of a scan that it holds."""

    id: int
    inbox: str
    path_bytes: bytes
    size: int
    mtime_ns: int
    changed_at: datetime
    lost_leases: int


@dataclass(frozen=True)
class Claim:
    """Scans taken together, under one token. `quarantined`: one scan, held when a worker died; to be read alone."""

    token: str
    scans: tuple[ClaimedScan, ...]

    @property
    def quarantined(self) -> bool:
        return self.scans[0].lost_leases > 0


@dataclass(frozen=True)
class Classified:
    scan_id: int
    sha256: str
    probability: float
    flagged: bool
    threshold: float
    model_version: str
    caution: str | None = None
    header: Header | None = None
    sample_unflagged: float = 0.0  # the share of unflagged films that readers are to see
    gate_score: float | None = None  # by the model's gate: beyond 1 it would be no chest film; 0 of one that has none
    brightness: float | None = None  # mean gray level of the pixels, 0 to 255

    @property
    def worklist_entry(self) -> WorklistEntry:
        """Into the readers' worklist."""
        return worklist_entry(self.sha256, self.probability, self.flagged, self.threshold, self.sample_unflagged)

    @property
    def instance_key(self) -> str | None:
        """By which the table of contents knows this SOP instance with these pixels, whatever the file's bytes.

        Neither is enough: films of other instances may have the same pixels (all black), and a machine may use an
        instance's UID twice.
        """
        if self.header is None or self.header.sop_uid is None or self.header.pixels_sha256 is None:
            return None
        return hashlib.sha256(f"sop:{self.header.sop_uid}:{self.header.pixels_sha256}".encode()).hexdigest()


@dataclass(frozen=True)
class Rejected:
    scan_id: int
    reason: Reason
    sentence: str
    sha256: str | None = None
    header: Header | None = None


@dataclass(frozen=True)
class Deferred:
    """To be read later, the attempt uncounted; `size` and `mtime_ns` where the file has changed under its row."""

    scan_id: int
    not_before: datetime
    detail: str
    size: int | None = None
    mtime_ns: int | None = None


Outcome = Classified | Rejected | Deferred


def header_values(header: Header | None) -> dict[str, Any]:
    """{column: value}; nothing where there is no header."""
    return {} if header is None else {name: getattr(header, name) for name in HEADER_COLUMNS}
