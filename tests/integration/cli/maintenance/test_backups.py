"""`pneumowatch backup` and `restore`."""

from contextlib import closing
from pathlib import Path

import pytest
from support.invoke import call
from support.ledger_driver import LedgerDriver

from db.session import Database
from pneumowatch.errors import BackupError


def test_a_backup_and_the_way_back(ledger: LedgerDriver, data: Path, tmp_path: Path) -> None:
    code, said = call("backup", tmp_path / "backup", "--data", data)
    assert code == 0
    assert "includes the patient key" in said
    code, said = call("restore", tmp_path / "backup", "--data", tmp_path / "new")
    assert code == 0
    assert "erase them again" in said
    with closing(Database(f"sqlite:///{tmp_path / 'new' / 'pneumowatch.db'}")) as database:
        assert LedgerDriver(database).states() == ledger.states()
    with pytest.raises(BackupError, match="--replace"):
        call("restore", tmp_path / "backup", "--data", tmp_path / "new")
