"""The data that ledger and worker exchange: claimed scans, and the outcome of each."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from db.ledger.sampling import WorklistEntry, worklist_entry
from db.states import Reason
from pneumowatch.header import Header

# columns of a scan that are copied from its header, named as the header's fields
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
    """The columns of a claimed scan that a worker needs."""

    id: int
    inbox: str
    path_bytes: bytes
    size: int
    mtime_ns: int
    changed_at: datetime
    lost_leases: int


@dataclass(frozen=True)
class Claim:
    """Scans that were claimed together, under one token.

    `quarantined`: it is a single scan whose worker died before; it is to be processed alone.
    """

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
    sample_unflagged: float = 0.0  # the share of unflagged scans that enter the worklist
    gate_score: float | None = None  # of the input gate: beyond 1 not a chest x-ray; 0 without a gate
    brightness: float | None = None  # mean gray level of the pixels, 0 to 255

    @property
    def worklist_entry(self) -> WorklistEntry:
        """The entry in the readers' worklist."""
        return worklist_entry(self.sha256, self.probability, self.flagged, self.threshold, self.sample_unflagged)

    @property
    def instance_key(self) -> str | None:
        """The key of this SOP instance with these pixels in `contents`, whatever the file's bytes.

        Neither the UID nor the pixels are enough: images of other instances may have the same pixels (all black), and a
        machine may use an instance's UID twice.
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
    """To be processed later; the attempt is not counted.

    `size` and `mtime_ns` are set if the file differs from its row.
    """

    scan_id: int
    not_before: datetime
    detail: str
    size: int | None = None
    mtime_ns: int | None = None


Outcome = Classified | Rejected | Deferred


def header_values(header: Header | None) -> dict[str, Any]:
    """Return {column: value}; empty without a header."""
    return {} if header is None else {name: getattr(header, name) for name in HEADER_COLUMNS}
