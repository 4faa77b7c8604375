"""`pneumowatch db upgrade`, and databases of a development version."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text
from support.invoke import call
from support.ledger_driver import LedgerDriver

from db import schema
from pneumowatch.errors import SchemaMismatch


def test_an_upgrade_says_that_there_is_no_way_back_but_a_backup(
    ledger: LedgerDriver, data: Path, tmp_path: Path, install_next_version: Callable[[], str]
) -> None:
    before = schema.head_revision()
    shutil.copytree(data, tmp_path / "other")
    install_next_version()
    code, said = call("db", "upgrade", "--backup", tmp_path / "before", "--data", data)
    assert code == 0
    assert f"is a backup at revision {before}" in said
    assert json.loads((tmp_path / "before" / "manifest.json").read_text())["schema"] == before
    assert "Only a backup from before" in call("db", "upgrade", "--data", tmp_path / "other")[1]
    assert "Only a backup from before" not in call("db", "upgrade", "--data", tmp_path / "other")[1]


@pytest.mark.parametrize(
    "words",
    [("db", "upgrade"), ("db", "upgrade", "--backup", "new"), ("backup", "new"), ("up", "--once", "--inbox", ".")],
)
def test_a_database_of_a_development_version_is_named_as_such(
    ledger: LedgerDriver, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    ledger.database.write(lambda c: c.execute(text("UPDATE alembic_version SET version_num = '0012'")))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SchemaMismatch, match="development version"):
        call(*words, "--data", data)
    assert not (tmp_path / "new").exists()


def test_doctor_names_a_database_of_a_development_version(ledger: LedgerDriver, data: Path) -> None:
    ledger.database.write(lambda c: c.execute(text("UPDATE alembic_version SET version_num = '0012'")))
    code, said = call("doctor", "--data", data, "--json")
    assert code == 1
    (database,) = (check for check in json.loads(said) if check["check"] == "database")
    assert "development version" in database["message"]
