"""Backups of a real SQLite and a real PostgreSQL: written under load, and restored whole or not at all."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select, text
from support.ledger_driver import LedgerDriver, file_version
from support.services import fresh_database, postgres_programs
from support.waiting import eventually

from db import deployment, schema
from db.health.heartbeat_writer import writing_heartbeats
from db.maintenance import backup, dump
from db.maintenance import restore as restoration
from db.maintenance.backup import Manifest
from db.models import Audit, Heartbeat, Scan, ScanEvent
from db.session import Database
from db.views import VIEW_NAMES
from db.worklist import audit
from pneumowatch.errors import BackupError, SchemaMismatch, SettingsError
from pneumowatch.imaging import image_store
from pneumowatch.settings import Settings


def quiet(_step: str) -> dump.StepProgress:
    return lambda done, of: None


class Installation:
    """A data folder and its database."""

    def __init__(self, folder: Path, url: str) -> None:
        self.data = folder
        self.url = url
        self.settings = Settings(data_dir=folder, database_url=url)

    def fill(self) -> None:
        """Fill it with an image read and kept, one that waits, an uploaded one, a model, and a key."""
        with closing(Database(self.url)) as database:
            ledger = LedgerDriver(database)
            ledger.register_model()
            ledger.classify(file_version("a.png"), sha256="a" * 64)
            ledger.add(file_version("b.png"))
            deployment.load_patient_key(database, self.settings)
        image_store.store_image(self.data, "a" * 64, np.zeros((8, 8), np.uint8))
        (self.data / "uploads").mkdir()
        (self.data / "uploads" / "x-0123.png").write_bytes(b"image")
        os.utime(self.data / "uploads" / "x-0123.png", ns=(1, 1_234_567_891_234_567_891))
        model = self.data / "models" / "model-1"
        model.mkdir(parents=True)
        (model / "card.json").write_text("{}")
        (self.data / "models" / "champion").symlink_to("model-1")
        (self.data / "models" / ".lock").touch()

    def backup(self, out: Path, with_key: bool = True) -> Manifest:
        with closing(Database(self.url)) as database:
            return backup.create_backup(database, self.settings, out, with_key, quiet)

    def restore(self, source: Path, replace: bool = False) -> list[Path]:
        manifest = backup.read_manifest(source)
        backup.verify_backup(source, manifest, quiet(""))
        return restoration.restore_backup(self.settings, source, manifest, replace, quiet)

    def rows(self, *columns: Any) -> list[tuple[Any, ...]]:
        with closing(Database(self.url)) as database:
            return [tuple(row) for row in database.read(lambda c: c.execute(select(*columns)).all())]


@pytest.fixture(autouse=True)
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """pg_dump of the very server that runs."""
    monkeypatch.setenv("PATH", os.pathsep.join([str(postgres_programs()), os.environ["PATH"]]))


@pytest.fixture
def installation(empty_database: Database, tmp_path: Path) -> Installation:
    schema.upgrade(empty_database)
    installation = Installation(tmp_path / "data", empty_database.engine.url.render_as_string(hide_password=False))
    installation.data.mkdir()
    installation.fill()
    return installation


@pytest.fixture
def other(installation: Installation, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Installation]:
    """Another, empty installation to restore into."""
    if installation.url.startswith("sqlite"):
        yield Installation(tmp_path / "other", f"sqlite:///{tmp_path / 'other' / 'new.db'}")
    else:
        with fresh_database(request.getfixturevalue("postgres_url")) as url:
            yield Installation(tmp_path / "other", url)


def test_everything_is_back_as_it_was(installation: Installation, other: Installation, tmp_path: Path) -> None:
    manifest = installation.backup(tmp_path / "backup")
    assert manifest.has_key
    assert other.restore(tmp_path / "backup") == []
    everything = (Scan.id, Scan.state, Scan.path_bytes, Scan.sha256, Scan.probability, Scan.received_at)
    assert other.rows(*everything) == installation.rows(*everything) != []
    assert other.rows(ScanEvent.__table__) == installation.rows(ScanEvent.__table__)
    for name in ("patient.key", f"images/{'a' * 64}.png", "uploads/x-0123.png", "models/model-1/card.json"):
        here, there = installation.data / name, other.data / name
        assert there.read_bytes() == here.read_bytes()
        assert there.stat().st_mode == here.stat().st_mode
    handed_in = other.data / "uploads" / "x-0123.png"
    assert handed_in.stat().st_mtime_ns == 1_234_567_891_234_567_891  # by which the watcher knows it
    assert (other.data / "models" / "champion").readlink() == Path("model-1")
    assert [what for (what,) in other.rows(Audit.what)] == [audit.AuditAction.RESTORE]
    assert [what for (what,) in installation.rows(Audit.what)] == [audit.AuditAction.BACKUP]
    with closing(Database(other.url)) as database:
        schema.require_current(database)
        assert schema.model_differences(database) == []
        assert database.read(lambda c: [len(c.execute(text(f"SELECT * FROM {name}")).all()) for name in VIEW_NAMES])
        LedgerDriver(database).add(file_version("c.png"))  # ids go on where they were
        deployment.load_patient_key(database, other.settings)


def test_nobody_else_may_read_a_backup(installation: Installation, tmp_path: Path) -> None:
    installation.backup(tmp_path / "backup")
    assert (tmp_path / "backup").stat().st_mode & 0o777 == 0o700
    files = [path for path in (tmp_path / "backup").rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert list(tmp_path.glob(".unfinished*")) == []


def test_a_backup_is_of_one_moment_while_others_write(
    installation: Installation, other: Installation, tmp_path: Path
) -> None:
    """Each transaction writes a scan and its event: the backup has both or neither."""
    stop, written = threading.Event(), threading.Event()

    def write() -> None:
        with closing(Database(installation.url)) as database:
            for number in range(100_000):
                if stop.is_set():
                    return
                LedgerDriver(database).add(file_version(f"{number}.png"))
                written.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert written.wait(30)
        installation.backup(tmp_path / "backup")
    finally:
        stop.set()
        writer.join()
    other.restore(tmp_path / "backup")
    ids = {id_ for (id_,) in other.rows(Scan.id)}
    assert len(ids) > 2
    assert {scan_id for (scan_id,) in other.rows(ScanEvent.scan_id)} == ids


def test_nothing_is_overwritten(installation: Installation, tmp_path: Path) -> None:
    (tmp_path / "backup").mkdir()
    with pytest.raises(BackupError, match="exists already"):
        installation.backup(tmp_path / "backup")
    assert list((tmp_path / "backup").iterdir()) == []


def test_a_backup_that_fails_leaves_nothing(installation: Installation, tmp_path: Path) -> None:
    installation.settings.patient_key_path.unlink()
    with pytest.raises(SettingsError, match="patient key is missing"):
        installation.backup(tmp_path / "backup")
    assert not (tmp_path / "backup").exists()
    assert list(tmp_path.glob(".unfinished*")) == []
    assert not installation.backup(tmp_path / "backup", with_key=False).has_key


@pytest.mark.parametrize("fault", ["changed", "missing", "manifest"])
def test_a_damaged_backup_touches_nothing(
    installation: Installation, other: Installation, tmp_path: Path, fault: str
) -> None:
    installation.backup(tmp_path / "backup")
    image = tmp_path / "backup" / "images" / f"{'a' * 64}.png"
    if fault == "changed":
        image.write_bytes(image.read_bytes()[:-1] + b"?")
    elif fault == "missing":
        image.unlink()
    else:
        (tmp_path / "backup" / "manifest.json").write_text("{")
    with pytest.raises(BackupError, match="damaged"):
        other.restore(tmp_path / "backup")
    assert not other.data.exists()
    with closing(Database(other.url)) as database:
        assert dump.is_empty(database)


def test_files_outside_are_refused(installation: Installation, other: Installation, tmp_path: Path) -> None:
    installation.backup(tmp_path / "backup")
    file = tmp_path / "backup" / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["files"]["images/../../outside"] = manifest["files"][f"images/{'a' * 64}.png"]
    file.write_text(json.dumps(manifest))
    with pytest.raises(BackupError, match="outside"):
        other.restore(tmp_path / "backup")


def test_what_is_there_makes_way_only_if_told(installation: Installation, tmp_path: Path) -> None:
    installation.backup(tmp_path / "backup")
    with closing(Database(installation.url)) as database:
        LedgerDriver(database).add(file_version("later.png"))
        database.write(lambda c: c.execute(text("CREATE TABLE of_a_newer_version (id INTEGER)")))
    image_store.store_image(installation.data, "b" * 64, np.zeros((8, 8), np.uint8))
    installation.settings.patient_key_path.unlink()
    installation.settings.patient_key_path.write_text("f" * 64)
    with pytest.raises(BackupError, match=r"--replace") as refusal:
        installation.restore(tmp_path / "backup")
    assert "the database" in str(refusal.value)
    assert len(installation.rows(Scan.id)) == 3

    moved = installation.restore(tmp_path / "backup", replace=True)
    assert len(installation.rows(Scan.id)) == 2
    with closing(Database(installation.url)) as database:
        assert schema.model_differences(database) == []
        deployment.load_patient_key(database, installation.settings)
    assert image_store.load_image(installation.data, "b" * 64) is None
    beside = [path for folder in moved for path in folder.rglob("*")]
    assert {"patient.key", f"{'b' * 64}.png"} <= {path.name for path in beside}


def test_a_wrecked_database_makes_way(installation: Installation, tmp_path: Path) -> None:
    if not installation.url.startswith("sqlite"):
        pytest.skip("PostgreSQL looks after its own files")
    installation.backup(tmp_path / "backup")
    file = dump.sqlite_file(installation.url)
    file.write_bytes(b"wrecked" * 1000)
    with pytest.raises(BackupError, match="the database"):
        installation.restore(tmp_path / "backup")
    installation.restore(tmp_path / "backup", replace=True)
    assert len(installation.rows(Scan.id)) == 2


@contextmanager
def living(installation: Installation) -> Iterator[None]:
    with closing(Database(installation.url)) as database, writing_heartbeats(database) as writer:
        writer.add_component("watcher")
        eventually(lambda: installation.rows(Heartbeat.component) != [])
        yield


def test_nothing_is_restored_under_running_components(installation: Installation, tmp_path: Path) -> None:
    installation.backup(tmp_path / "backup")
    with living(installation), pytest.raises(BackupError, match="watcher@"):
        installation.restore(tmp_path / "backup", replace=True)


def test_past_components_are_not_taken_for_alive(
    installation: Installation, other: Installation, tmp_path: Path
) -> None:
    with living(installation):
        installation.backup(tmp_path / "backup")
    other.restore(tmp_path / "backup")
    assert other.rows(Heartbeat.component) == []


def test_a_backup_of_a_newer_schema_is_refused(installation: Installation, other: Installation, tmp_path: Path) -> None:
    installation.backup(tmp_path / "backup")
    file = tmp_path / "backup" / "manifest.json"
    file.write_text(file.read_text().replace(f'"schema": "{schema.head_revision()}"', '"schema": "9999"'))
    with pytest.raises(BackupError, match="9999"):
        other.restore(tmp_path / "backup")


def test_a_backup_is_not_for_another_kind_of_database(installation: Installation, tmp_path: Path) -> None:
    if not installation.url.startswith("postgresql"):
        pytest.skip("the other way round is the same")
    installation.backup(tmp_path / "backup")
    with pytest.raises(BackupError, match="postgresql"):
        Installation(tmp_path / "other", "").restore(tmp_path / "backup")


def test_without_pg_dump_it_is_said_what_to_install(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not installation.url.startswith("postgresql"):
        pytest.skip("SQLite needs no program")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackupError, match="postgresql-client"):
        installation.backup(tmp_path / "backup")
    assert not (tmp_path / "backup").exists()


def test_a_dump_that_postgresql_refuses_changes_nothing(installation: Installation, tmp_path: Path) -> None:
    """Its hashes are right, but it is no dump: as after a full disk killed the client."""
    if not installation.url.startswith("postgresql"):
        pytest.skip("an SQLite file that is damaged is found when its tables are brought up")
    file = tmp_path / "cut.pgdump"
    with closing(Database(installation.url)) as database:
        dump.write_dump(database, file, quiet(""))
        file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
        with pytest.raises(BackupError, match="has not changed"):
            dump.restore_dump(database, file)
    assert len(installation.rows(Scan.id)) == 2


def test_a_backup_of_an_earlier_version_is_brought_up(
    installation: Installation, other: Installation, tmp_path: Path, install_next_version: Callable[[], str]
) -> None:
    """The way back from an upgrade, and forward again."""
    manifest = installation.backup(tmp_path / "backup", with_key=False)
    assert manifest.schema == schema.head_revision()
    revision = install_next_version()
    other.restore(tmp_path / "backup")
    assert len(other.rows(Scan.id)) == 2
    with closing(Database(other.url)) as database:
        schema.require_current(database)
        assert schema.current_revision(database) == revision


def test_neither_database_nor_backup_of_a_development_version_is_taken(
    installation: Installation, other: Installation, tmp_path: Path
) -> None:
    installation.backup(tmp_path / "backup")
    file = tmp_path / "backup" / "manifest.json"
    file.write_text(file.read_text().replace(f'"schema": "{schema.head_revision()}"', '"schema": "0012"'))
    with pytest.raises(SchemaMismatch, match=r"This backup .* development version"):
        other.restore(tmp_path / "backup")
    assert not other.data.exists()
    with closing(Database(installation.url)) as database:
        database.write(lambda c: c.execute(text("UPDATE alembic_version SET version_num = '0012'")))
    with pytest.raises(SchemaMismatch, match=r"The database .* development version"):
        installation.backup(tmp_path / "another")
    assert not (tmp_path / "another").exists()
