"""Classified scans for tests of what readers see."""

from datetime import UTC, datetime, timedelta
from typing import Any

from db.ledger.outcomes import Classified
from pneumowatch.header import Header
from support.ledger_driver import MODEL, LedgerDriver, file_version


def add_classified(
    ledger: LedgerDriver,
    name: str,
    probability: float,
    study: str | None = None,
    hours_ago: float = 0,
    share: float = 0.0,
    inbox: str = "inbox",
    sha256: str | None = None,
    **others: Any,
) -> int:
    """Add a classified scan and return its id; flagged from 0.5 on. `share`: of unflagged images that readers see."""
    (scan_id,) = ledger.add(file_version(name, inbox=inbox))
    header = Header(study_uid=study, **others) if study or others else None
    sha256 = sha256 or f"{scan_id:064x}"
    outcome = Classified(scan_id, sha256, probability, probability >= 0.5, 0.5, MODEL, None, header, share)
    ledger.finish(ledger.claimed(), outcome)
    if hours_ago:
        ledger.set(scan_id, received_at=datetime.now(UTC) - timedelta(hours=hours_ago))
    return scan_id
