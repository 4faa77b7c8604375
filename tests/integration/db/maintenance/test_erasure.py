"""Erasing a patient: only tombstones are left, and the ledger is as complete as before."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import inspect, select, text
from support.ledger_driver import EVERY, LedgerDriver, classified, file_version, rejected

from db.ledger import queries, transitions
from db.ledger.outcomes import Classified
from db.maintenance import erasure
from db.maintenance.erasure import ErasureScope
from db.models import Base, Scan
from db.states import Verdict
from db.worklist import audit, verdicts
from pneumowatch.errors import ErasureRefused
from pneumowatch.header import Header
from pneumowatch.imaging import image_store
from pneumowatch.settings import Settings

HERS, HIS = "a1" * 32, "b2" * 32
ACCESSION = "ACC-OF-HERS-77"
STUDY = "1.2.77"
COMMENT = "mother says it coughs"


def image(scan_id: int, sha256: str, key: str, accession: str) -> Classified:
    study = STUDY if key == HERS else "1.2.88"
    instance = {"sop_uid": f"{study}.{scan_id}", "pixels_sha256": sha256}
    header = Header(study_uid=study, accession_number=accession, patient_key=key, **instance)
    return Classified(scan_id, sha256, 0.9, True, 0.5, "model-1", header=header)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data")


@pytest.fixture
def hers(ledger: LedgerDriver, settings: Settings) -> list[int]:
    """Three scans of hers: an image, its copy without the header's key, a rejected upload; and one of his."""
    ids = ledger.add(
        file_version("hers.dcm"),
        file_version("his.dcm"),
        file_version("copy.dcm"),
        file_version("in-01.dcm", inbox="uploads"),
    )
    claim = ledger.claimed()
    first, his, copy, handed_in = ids
    outcomes = [image(first, "1" * 64, HERS, ACCESSION), image(his, "2" * 64, HIS, "other"), classified(copy, "1" * 64)]
    lateral = rejected(handed_in)
    outcomes.append(
        type(lateral)(handed_in, lateral.reason, lateral.sentence, "3" * 64, Header(patient_key=HERS))  # type: ignore[arg-type]
    )
    ledger.finish(claim, *outcomes)
    for sha256 in ("1", "2"):
        image_store.store_image(settings.data_dir, sha256 * 64, np.zeros((8, 8), np.uint8), np.zeros((2, 2)))
    uploads = settings.data_dir / "uploads"
    uploads.mkdir()
    (uploads / "in-01.dcm").write_bytes(b"hers")
    ledger.database.write(lambda c: verdicts.record_verdict(c, first, Verdict.PNEUMONIA, "ada", COMMENT))
    ledger.database.write(lambda c: verdicts.record_verdict(c, his, Verdict.UNSURE, "ada"))
    return [first, copy, handed_in]


def test_what_is_read_or_comes_between_the_look_and_the_erasing_is_not_left_behind(
    ledger: LedgerDriver, settings: Settings
) -> None:
    (waiting,) = ledger.add(file_version("hers.dcm"))
    found = find(ledger, settings, scan_ids=[waiting])
    ledger.finish(ledger.claimed(), image(waiting, "1" * 64, HERS, ACCESSION))
    image_store.store_image(settings.data_dir, "1" * 64, np.zeros((8, 8), np.uint8))
    with pytest.raises(ErasureRefused, match="Look again"):
        erasure.erase_scope(ledger.database, found, "adam")
    assert image_store.load_image(settings.data_dir, "1" * 64) is not None, "nothing was erased"

    found = find(ledger, settings, patient_key=HERS)
    (another,) = ledger.add(file_version("hers again.dcm"))
    ledger.finish(ledger.claimed(), image(another, "2" * 64, HERS, ACCESSION))
    with pytest.raises(ErasureRefused, match="Look again"):
        erasure.erase_scope(ledger.database, found, "adam")
    assert erasure.erase_scope(ledger.database, find(ledger, settings, patient_key=HERS), "adam") == 2
    assert image_store.load_image(settings.data_dir, "1" * 64) is None


def find(ledger: LedgerDriver, settings: Settings, **which: Any) -> ErasureScope:
    return ledger.database.read(lambda c: erasure.find_erasure_scope(c, settings, **which))


def everything(ledger: LedgerDriver) -> str:
    """Return the content of all tables."""

    def dump(connection: Any) -> str:
        tables = [name for name in inspect(connection).get_table_names() if name != "models"]
        return repr([connection.execute(text(f"SELECT * FROM {name}")).all() for name in tables])

    return ledger.database.read(dump)


def test_nothing_is_left_of_a_patient(ledger: LedgerDriver, hers: list[int], settings: Settings) -> None:
    assert all(trace in everything(ledger) for trace in (HERS, ACCESSION, COMMENT, "hers.dcm", "1" * 64))
    found = find(ledger, settings, patient_key=HERS)
    assert list(found.scan_ids) == hers  # the copy by its bytes
    assert (found.predictions, found.reviews, len(found.images), len(found.uploads)) == (1, 1, 1, 1)
    before = ledger.database.read(queries.counts_by_state)
    assert erasure.erase_scope(ledger.database, found, "admin") == 3

    left = everything(ledger)
    assert not [trace for trace in (HERS, ACCESSION, COMMENT, STUDY, "hers.dcm", "copy.dcm", "1" * 64) if trace in left]
    assert {path.name[0] for path in (settings.data_dir / "images").iterdir()} == {"2"}
    assert list((settings.data_dir / "uploads").iterdir()) == []
    after = ledger.database.read(queries.counts_by_state)
    assert sum(after.values()) == sum(before.values()) == 4
    assert {ledger.state(id_) for id_ in hers} == {"rejected"}
    rows = ledger.database.read(lambda c: audit.list_actions(c, 10))
    assert [(row["what"], row["scan_id"], row["who"]) for row in rows] == [
        (audit.AuditAction.ERASURE, id_, "admin") for id_ in sorted(hers, reverse=True)
    ]


def test_others_keep_everything(ledger: LedgerDriver, hers: list[int], settings: Settings) -> None:
    (his,) = set(ledger.states()) - set(hers)
    before = ledger.row(his), ledger.predictions(his), ledger.events(his)
    erasure.erase_scope(ledger.database, find(ledger, settings, patient_key=HERS), "admin")
    assert (ledger.row(his), ledger.predictions(his), ledger.events(his)) == before
    assert len(ledger.database.read(lambda c: verdicts.review_history(c, his))) == 1
    assert ledger.owners().keys() >= {"2" * 64}


def test_the_files_that_still_stand_there_are_not_announced_anew(
    ledger: LedgerDriver, hers: list[int], settings: Settings
) -> None:
    files = [file_version("hers.dcm"), file_version("copy.dcm"), file_version("in-01.dcm", inbox="uploads")]
    erasure.erase_scope(ledger.database, find(ledger, settings, patient_key=HERS), "admin")
    assert ledger.unregistered(*files) == []
    arrived = ledger.register(*files)
    assert (arrived.to_announce, arrived.busy) == ([], [])
    assert ledger.requeue(EVERY) == []
    unscored = ledger.database.read(lambda c: queries.view_rows(c, "unscored_cases", 10))
    flagged = ledger.database.read(lambda c: queries.view_rows(c, "flagged_cases", 10))
    assert unscored == []
    assert [row["path"] for row in flagged] == ["his.dcm"]


def test_a_copy_that_comes_later_is_read_as_new(ledger: LedgerDriver, hers: list[int], settings: Settings) -> None:
    erasure.erase_scope(ledger.database, find(ledger, settings, patient_key=HERS), "admin")
    (anew,) = ledger.add(file_version("again.dcm"))
    ledger.finish(ledger.claimed(), image(anew, "1" * 64, HERS, ACCESSION))
    assert ledger.state(anew) == "classified"


@pytest.mark.parametrize("which", [0, 1])
def test_by_a_scan_s_id_all_copies_of_the_image_go(
    ledger: LedgerDriver, hers: list[int], settings: Settings, which: int
) -> None:
    found = find(ledger, settings, scan_ids=[hers[which]])
    assert list(found.scan_ids) == hers[:2]
    assert erasure.erase_scope(ledger.database, found, "admin") == 2
    assert erasure.erase_scope(ledger.database, find(ledger, settings, scan_ids=[hers[0]]), "admin") == 0


def test_what_waits_is_erased_and_what_is_being_read_is_not(ledger: LedgerDriver, settings: Settings) -> None:
    waiting, running = ledger.add(file_version("b.dcm"), file_version("c.dcm"))
    erasure.erase_scope(ledger.database, find(ledger, settings, scan_ids=[waiting]), "admin")
    claim = ledger.claimed()
    assert [scan.id for scan in claim.scans] == [running]
    found = find(ledger, settings, scan_ids=[running])
    with pytest.raises(ErasureRefused, match="being processed"):
        erasure.erase_scope(ledger.database, found, "admin")
    ledger.finish(claim, classified(running))
    assert ledger.state(running) == "classified"


def test_one_that_began_to_be_read_meanwhile_costs_the_whole_erasure(
    ledger: LedgerDriver, hers: list[int], settings: Settings
) -> None:
    found = find(ledger, settings, patient_key=HERS)
    (scan_id,) = ledger.requeue(Scan.id == hers[2])
    ledger.claimed()
    with pytest.raises(ErasureRefused, match="being processed"):
        erasure.erase_scope(ledger.database, found, "admin")
    assert ledger.state(scan_id) == "running"
    assert ledger.row(hers[0])["patient_key"] == HERS


def test_nobody_of_that_key(ledger: LedgerDriver, settings: Settings) -> None:
    with pytest.raises(ErasureRefused, match="no such scan"):
        find(ledger, settings, patient_key=HERS)


def test_sqlite_s_file_holds_nothing_either(ledger: LedgerDriver, hers: list[int], settings: Settings) -> None:
    """Freed pages are zeros, and the write-ahead log is empty."""
    if ledger.database.dialect != "sqlite":
        pytest.skip("PostgreSQL's vacuum does it")
    file = Path(ledger.database.engine.url.database or "")
    traces = [HERS.encode(), ACCESSION.encode(), COMMENT.encode(), b"hers.dcm"]
    everywhere: Callable[[], bytes] = lambda: b"".join(path.read_bytes() for path in file.parent.glob(f"{file.name}*"))  # noqa: E731
    assert all(trace in everywhere() for trace in traces)
    erasure.erase_scope(ledger.database, find(ledger, settings, patient_key=HERS), "admin")
    assert not [trace for trace in traces if trace in everywhere()]
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert ledger.database.read(lambda c: c.scalar(select(Base.metadata.tables["scans"].c.id).limit(1)))


def test_every_column_of_a_scan_is_either_erased_or_kept_on_purpose() -> None:
    """A new one that tells of a patient must not outlive an erasure."""
    counted = {"id", "inbox", "path_sha256", "size", "mtime_ns", "superseded_by"}  # and recognised by
    life = {"state", "priority", "received_at", "changed_at", "not_before", "announced_at", "finished_at"}
    claim = {"claim_token", "claimed_by", "leased_until", "lost_leases", "lost_leases_exclusive", "exclusive"}
    assert set(Scan.__table__.c.keys()) - transitions.TOMBSTONE.keys() == counted | life | claim
