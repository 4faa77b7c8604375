"""`backup`, `restore`, `purge` and `erase` as they are called."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text
from support.ledger_driver import LedgerDriver, classified, file_version
from typer.testing import CliRunner

from cli import app
from db import deployment, schema
from db.ledger.outcomes import Classified
from db.session import Database
from db.worklist import audit
from pneumowatch import patient_hashing
from pneumowatch.errors import BackupError, ErasureRefused, SchemaMismatch
from pneumowatch.header import Header
from pneumowatch.settings import Settings

PATIENT = "PAT-0815"


@pytest.fixture
def data(tmp_path: Path, migrated_sqlite: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "pneumowatch.db").write_bytes(migrated_sqlite.read_bytes())
    return folder


@pytest.fixture
def ledger(data: Path) -> Iterator[LedgerDriver]:
    with closing(Database(f"sqlite:///{data / 'pneumowatch.db'}")) as database:
        ledger = LedgerDriver(database)
        ledger.register_model()
        secret = deployment.load_patient_key(database, Settings(data_dir=data))
        his, other = ledger.add(file_version("a.dcm"), file_version("b.dcm"))
        header = Header(patient_key=patient_hashing.hash_patient_id(secret, PATIENT))
        ledger.finish(
            ledger.claimed(), Classified(his, "1" * 64, 0.9, True, 0.5, "model-1", header=header), classified(other)
        )
        yield ledger


def call(*arguments: object, answers: str = "") -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], input=answers)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


@pytest.mark.parametrize(
    "words",
    [
        ("erase", 2**63, "--yes"),
        ("requeue", 2**63),
        ("verdict", 2**63, "unsure", "--reviewer", "ada"),
        ("flagged", "-n", 2**63),
    ],
)
def test_numbers_that_no_database_holds(ledger: LedgerDriver, data: Path, words: tuple[object, ...]) -> None:
    code, said = call(*words, "--data", data)
    assert code == 2, said
    assert str(2**63 - 1) in said
    assert set(ledger.states().values()) == {"classified"}


def test_a_patient_is_erased_by_an_id_that_is_asked_for(ledger: LedgerDriver, data: Path) -> None:
    code, said = call("erase", "--ask", "--data", data, answers=f"{PATIENT}\n\ny\n")
    assert code == 0, said
    assert "Erased scans: 1" in said
    assert PATIENT not in said
    assert ledger.row(1)["reason"] == "erased"
    assert ledger.row(2)["reason"] is None
    with pytest.raises(ErasureRefused):
        call("erase", "--ask", "--data", data, answers=f"{PATIENT}\n\ny\n")


def test_nothing_is_erased_by_a_dry_run_or_a_no(ledger: LedgerDriver, data: Path) -> None:
    code, said = call("erase", 1, 2, "--dry-run", "--data", data)
    assert code == 0
    assert "2 scans (2 classified): 1, 2" in said
    assert call("erase", 1, "--data", data, answers="n\n")[0] == 1
    assert ledger.states() == {1: "classified", 2: "classified"}
    assert call("erase", 1, "--json", "--data", data)[0] == 2  # nobody can be asked
    assert call("erase", "--data", data)[0] == 2
    assert call("erase", 1, "--yes", "--json", "--data", data)[0] == 0
    assert ledger.states() == {1: "rejected", 2: "classified"}


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
