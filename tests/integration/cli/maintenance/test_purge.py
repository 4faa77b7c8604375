"""`pneumowatch purge`."""

from pathlib import Path

import pytest
from support.invoke import call
from support.ledger_driver import LedgerDriver

from db.worklist import audit


def test_purge_says_what_goes(ledger: LedgerDriver, data: Path) -> None:
    events = ledger.event_count()
    code, said = call("purge", "--older-than", "0h", "--events", "--images", "--audit", "--dry-run", "--data", data)
    assert code == 0
    assert f"{events - 1} rows of events would be removed" in said
    assert ledger.event_count() == events
    code, said = call("purge", "--older-than", "0h", "--events", "--data", data)
    assert f"{events - 1} rows of events were removed" in said
    (row,) = ledger.database.read(lambda c: audit.list_actions(c, 10))
    assert (row["what"], row["detail"]) == (audit.AuditAction.PURGE, "events older than 0h")


@pytest.mark.parametrize("arguments", [["--older-than", "90d"], ["--older-than", "soon", "--images"], ["--images"]])
def test_purge_wants_to_know_what_and_how_old(ledger: LedgerDriver, data: Path, arguments: list[str]) -> None:
    assert call("purge", *arguments, "--data", data)[0] == 2
