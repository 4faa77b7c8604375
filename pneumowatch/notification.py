"""A notification about a newly flagged scan, and the ids of what is made from it."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID, uuid5

WEBHOOK: Final = "webhook"
MAIL: Final = "mail"
PACS: Final = "pacs"


@dataclass(frozen=True)
class Notification:
    """A scan that a model has flagged, with its result at that time: a repeated delivery says the same.

    `deployment` identifies this installation. `copies` are the inboxes and raw paths where the scan's bytes were found:
    for channels that read the file again. They are never sent.
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
        """Return the id of one object made from this notification: the same at every repeat, and unique to it.

        The hash of the content is included, as a ledger restored from a backup may give the scan's id to another scan.
        """
        return uuid5(self.deployment, f"{role}:{self.scan_id}:{self.sha256}")

    @property
    def device_uid(self) -> str:
        """The DICOM UID of this deployment as a device."""
        return f"2.25.{uuid5(self.deployment, 'device').int}"

    def uid(self, role: str) -> str:
        """Return the same id as a DICOM UID (PS3.5 B.2)."""
        return f"2.25.{self.uuid(role).int}"


def review_link(review_url: str, scan_id: int) -> str | None:
    """Return the link to a scan in the review app; None where no PNEUMOWATCH_REVIEW_URL is set."""
    return f"{review_url.rstrip('/')}/scans/{scan_id}" if review_url else None
