"""Fixtures for tests of the maintenance commands: a data folder, and its ledger with two classified scans."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.invoke import PATIENT
from support.ledger_driver import LedgerDriver, classified, file_version

from db import deployment
from db.ledger.outcomes import Classified
from db.session import Database
from pneumowatch import patient_hashing
from pneumowatch.header import Header
from pneumowatch.settings import Settings


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
