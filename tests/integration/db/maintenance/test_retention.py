"""Retention: old images and events are purged, new ones stay, and running components are not disturbed."""

import os
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select, update
from support.ledger_driver import LedgerDriver, file_version

from db.ledger import transitions
from db.maintenance import retention
from db.maintenance.retention import PurgedImages
from db.models import Audit, ScanEvent
from db.states import Verdict
from db.worklist import audit, verdicts
from pneumowatch.imaging import image_store

OLD = timedelta(days=100)


def count(ledger: LedgerDriver, table: Any) -> int:
    return ledger.database.read(lambda c: c.scalar(select(func.count()).select_from(table))) or 0


def age(ledger: LedgerDriver, table: Any, *ids: int) -> None:
    ledger.database.write(
        lambda c: c.execute(update(table).where(table.id.in_(ids)).values(at=transitions.utc_now() - OLD))
    )


@pytest.mark.parametrize("portion", [1, 3, 5000])
def test_old_events_go_and_scans_stay(ledger: LedgerDriver, monkeypatch: pytest.MonkeyPatch, portion: int) -> None:
    monkeypatch.setattr(retention, "ROWS_PER_TRANSACTION", portion)
    ledger.classify(*(file_version(f"{number}.png") for number in range(4)))  # three events each
    before = transitions.utc_now() - timedelta(days=90)
    age(ledger, ScanEvent, *range(1, 8))
    assert retention.purge_events(ledger.database, before, dry_run=True) == 7
    assert count(ledger, ScanEvent) == 12
    assert retention.purge_events(ledger.database, before, dry_run=False) == 7
    assert retention.purge_events(ledger.database, before, dry_run=False) == 0
    assert count(ledger, ScanEvent) == 5
    assert set(ledger.states().values()) == {"classified"}


def test_a_rejected_image_with_a_verdict_is_a_label_and_stays(ledger: LedgerDriver, tmp_path: Path) -> None:
    (scan_id,) = ledger.add(file_version())
    turned_away = transitions.Rejected(scan_id, transitions.Reason.NOT_CHEST_XRAY, "A sentence.", "1" * 64)
    ledger.finish(ledger.claimed(), turned_away)
    ledger.database.write(lambda c: verdicts.record_verdict(c, scan_id, Verdict.PNEUMONIA, "ada"))
    image_store.store_image(tmp_path, "1" * 64, np.zeros((8, 8), np.uint8))
    long_ago = (transitions.utc_now() - OLD).timestamp()
    os.utime(image_store.image_path(tmp_path, "1" * 64), (long_ago, long_ago))
    found = retention.purge_images(
        ledger.database, tmp_path, transitions.utc_now(), include_reviewed=False, dry_run=False
    )
    assert (found.removed, found.reviewed) == (0, 1)
    found = retention.purge_images(
        ledger.database, tmp_path, transitions.utc_now(), include_reviewed=True, dry_run=False
    )
    assert (found.removed, found.reviewed) == (1, 0)


def test_the_newest_row_stays_so_that_its_number_is_never_given_again(ledger: LedgerDriver) -> None:
    ledger.classify(file_version())
    age(ledger, ScanEvent, 1, 2, 3)
    assert retention.purge_events(ledger.database, transitions.utc_now(), dry_run=False) == 2
    (second,) = ledger.add(file_version("b.png"))
    assert ledger.events(second)[0]["id"] == 4


def test_old_audit_rows_go(ledger: LedgerDriver) -> None:
    for number in range(3):
        ledger.database.write(
            lambda c, number=number: audit.record_action(c, "ada", audit.AuditAction.IMAGE_OPENED, number)
        )
    age(ledger, Audit, 1)
    assert retention.purge_audit(ledger.database, transitions.utc_now() - timedelta(days=90), dry_run=False) == 1
    assert [row["scan_id"] for row in ledger.database.read(lambda c: audit.list_actions(c, 9))] == [2, 1]


def keep(folder: Path, sha256: str, days: int = 0) -> None:
    image_store.store_image(folder, sha256, np.zeros((8, 8), np.uint8), np.zeros((2, 2)))
    moment = transitions.utc_now().timestamp() - days * 86400
    os.utime(image_store.image_path(folder, sha256), (moment, moment))


@pytest.mark.parametrize("portion", [1, 500])
def test_old_kept_images_go(
    ledger: LedgerDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, portion: int
) -> None:
    monkeypatch.setattr(retention, "HASHES_PER_QUERY", portion)
    old, reviewed, new = ledger.classify(file_version("a"), file_version("b"), file_version("c"))
    for scan_id in (old, reviewed, new):
        keep(tmp_path, f"{scan_id:064x}")
    keep(tmp_path, "e" * 64, days=2)  # of no scan any more
    keep(tmp_path, "f" * 64)  # of none yet
    for scan_id in (old, reviewed):
        ledger.set(scan_id, received_at=transitions.utc_now() - OLD)
    ledger.database.write(lambda c: verdicts.record_verdict(c, reviewed, Verdict.PNEUMONIA, "ada"))
    before = transitions.utc_now() - timedelta(days=90)

    would = retention.purge_images(ledger.database, tmp_path, before, include_reviewed=False, dry_run=True)
    assert (would.removed, would.reviewed) == (2, 1)
    assert would.bytes > 0
    assert len(list((tmp_path / "images").iterdir())) == 5
    assert retention.purge_images(ledger.database, tmp_path, before, include_reviewed=False, dry_run=False) == would
    left = {path.name.partition(".")[0] for path in (tmp_path / "images").iterdir()}
    assert left == {f"{reviewed:064x}", f"{new:064x}", "f" * 64}
    assert retention.purge_images(ledger.database, tmp_path, before, include_reviewed=True, dry_run=False).removed == 1
    assert set(ledger.states().values()) == {"classified"}


def test_where_nothing_is_kept_nothing_goes(ledger: LedgerDriver, tmp_path: Path) -> None:
    assert (
        retention.purge_images(ledger.database, tmp_path, transitions.utc_now(), include_reviewed=True, dry_run=False)
        == PurgedImages()
    )


def test_images_are_read_while_events_go(ledger: LedgerDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "ROWS_PER_TRANSACTION", 2)
    ledger.classify(*(file_version(f"old-{number}") for number in range(30)))
    age(ledger, ScanEvent, *range(1, 91))
    reading = threading.Thread(target=lambda: [ledger.classify(file_version(f"new-{number}")) for number in range(20)])
    reading.start()
    gone = retention.purge_events(ledger.database, transitions.utc_now() - timedelta(days=90), dry_run=False)
    reading.join()
    assert gone in (89, 90)  # the last of them was the newest row, or no more
    assert list(ledger.states().values()).count("classified") == 50
