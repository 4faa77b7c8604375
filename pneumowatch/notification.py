"""What is told of a newly flagged scan, and the names under which it is told."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID, uuid5

WEBHOOK: Final = "webhook"
MAIL: Final = "mail"
PACS: Final = "pacs"


@dataclass(frozen=True)
class Notification:
    """A scan that a model has flagged, with the result that it had then: a repeat says the same.

    `deployment` names this installation, `copies` are the inboxes and raw paths where its bytes stood: for who must
    read the film again, and for nobody to be told of.
    """

    deployment: UUID
    scan_id: int
    sha256: str
    source: str
    probability: float
    threshold: float
    model_version: str
    caution: str | None
    received_at: datetime
    finished_at: datetime
    copies: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)

    def uuid(self, role: str) -> UUID:
        """Of one thing that is made of this notice: the same at every repeat, and of nothing else.

        The content is part of it, as a ledger restored from a backup gives a scan's id to another film.
        """
        return uuid5(self.deployment, f"{role}:{self.scan_id}:{self.sha256}")

    @property
    def device_uid(self) -> str:
        """The DICOM UID of this deployment as a device."""
        return f"2.25.{uuid5(self.deployment, 'device').int}"

    def uid(self, role: str) -> str:
        """The same as a DICOM UID (PS3.5 B.2)."""
        return f"2.25.{self.uuid(role).int}"


def review_link(review_url: str, scan_id: int) -> str | None:
    """To a scan on the desk; None where nobody said where that is."""
    return f"{review_url.rstrip('/')}/scans/{scan_id}" if review_url else None
