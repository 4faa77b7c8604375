"""Restore a backup: copy the verified files beside their place, upgrade the tables, and move all into place."""

import os
import socket
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, delete, inspect, select
from sqlalchemy.exc import DBAPIError

from db import schema
from db.dialect import database_now
from db.health.heartbeats import SILENT_AFTER_SECONDS
from db.maintenance import dump
from db.maintenance.backup import (
    AUDIT_ACTOR,
    BACKUP_STAGING_PREFIX,
    PATIENT_KEY_FILE,
    FileEntry,
    Manifest,
    StepProgress,
    backed_up_folders,
    copy_file,
    visible_entries,
)
from db.models import Heartbeat, UserSession
from db.session import Database
from db.worklist import audit
from db.worklist.audit import AuditAction
from pneumowatch import inboxes
from pneumowatch.errors import BackupError, DatabaseUnavailable
from pneumowatch.settings import Settings

DATABASE_MODE: Final = 0o640
FOLDER_MODE: Final = 0o755


def restore_backup(
    settings: Settings, folder: Path, manifest: Manifest, replace: bool, progress: Callable[[str], StepProgress]
) -> list[Path]:
    """Restore a verified backup and upgrade its tables to this version. Returns the folders with the replaced files.

    Args:
        replace: existing data may be replaced: files are moved aside, tables of PostgreSQL are lost.
        progress: takes the name of a step and returns a function that takes its progress.

    Raises BackupError if data exists that may not be replaced, components are running, or the backup is of another kind
    of database, and SchemaMismatch if it is a development version's.
    """
    with closing(Database(settings.database)) as database:
        _require_compatible(database, manifest)
        _require_stopped(database)
        conflicts = _conflicts(settings, database, folder, manifest)
        if conflicts and not replace:
            raise BackupError(
                f"There is data already ({', '.join(conflicts)}). Name an empty data folder and an empty database, "
                "or use --replace: files are then moved aside, and tables of PostgreSQL are lost."
            )
        aside_name = f"replaced-{datetime.now(UTC):%Y%m%dT%H%M%S}"
        moved_to = []
        try:
            for name, destination in backed_up_folders(settings).items():
                moved_to += _restore_folder(destination, folder / name, name, manifest, aside_name, progress(name))
            moved_to += _restore_key(settings.patient_key_path, folder, manifest, aside_name)
            moved_to += _restore_database(database, folder, manifest, aside_name)
        except OSError as error:
            raise BackupError(f"The backup cannot be restored: {error.strerror}. Fix that, and try again.") from error
        return moved_to


def _conflicts(settings: Settings, database: Database, folder: Path, manifest: Manifest) -> list[str]:
    """Return the existing data that the backup would replace."""
    conflicts = [
        str(destination)
        for name, destination in backed_up_folders(settings).items()
        if _contains(manifest, name) and any(visible_entries(destination))
    ]
    key = settings.patient_key_path
    if manifest.has_key and key.exists() and not _same_content(key, folder / PATIENT_KEY_FILE):
        conflicts.append(str(key))
    return conflicts if dump.is_empty(database) else [*conflicts, "the database"]


def _restore_folder(
    destination: Path, source: Path, name: str, manifest: Manifest, aside_name: str, progress: StepProgress
) -> list[Path]:
    """Restore one folder. All files are copied before any is moved into place.

    The copies are made inside the folder itself, because it may be a mount of its own.
    """
    if not _contains(manifest, name):
        return []
    destination.mkdir(
        inboxes.INBOX_FOLDER_MODE if name == inboxes.UPLOADS else FOLDER_MODE, parents=True, exist_ok=True
    )
    files = manifest.beneath(name)
    with tempfile.TemporaryDirectory(prefix=BACKUP_STAGING_PREFIX, dir=destination) as staging:
        for number, (path, entry) in enumerate(files.items(), 1):
            target = Path(staging) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy_verified(source / path, target, entry)
            progress(number, len(files))
        for path, to in manifest.links_beneath(name).items():
            (Path(staging) / path).symlink_to(to)
        moved_to = _move_aside(list(visible_entries(destination)), destination / f".{aside_name}")
        for prepared in list(Path(staging).iterdir()):
            prepared.rename(destination / prepared.name)
    return moved_to


def _restore_key(destination: Path, folder: Path, manifest: Manifest, aside_name: str) -> list[Path]:
    if not manifest.has_key or (destination.exists() and _same_content(destination, folder / PATIENT_KEY_FILE)):
        return []
    destination.parent.mkdir(parents=True, exist_ok=True)
    moved_to = _move_aside([destination], destination.parent / aside_name)
    _copy_verified(folder / PATIENT_KEY_FILE, destination, manifest.files[PATIENT_KEY_FILE])
    return moved_to


def _restore_database(database: Database, folder: Path, manifest: Manifest, aside_name: str) -> list[Path]:
    dump_file = dump.DUMP_FILES[manifest.database]
    if database.dialect != "sqlite":
        dump.restore_dump(database, folder / dump_file)
        _upgrade_schema(database, manifest)
        return []
    database.close()
    destination = dump.sqlite_file(database.engine.url)
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=BACKUP_STAGING_PREFIX, dir=destination.parent) as staging:
        prepared = Path(staging) / destination.name
        _copy_verified(folder / dump_file, prepared, manifest.files[dump_file])
        prepared.chmod(DATABASE_MODE)
        with closing(Database(f"sqlite:///{prepared}")) as staged:
            _upgrade_schema(staged, manifest)
        os.sync()
        with_companions = [destination.with_name(destination.name + suffix) for suffix in ("", "-wal", "-shm")]
        moved_to = _move_aside(with_companions, destination.parent / aside_name)
        prepared.rename(destination)
    return moved_to


def _upgrade_schema(database: Database, manifest: Manifest) -> None:
    """Upgrade the tables to this version, and delete the backup's heartbeats and sessions.

    Otherwise components and sessions from before would count as alive.
    """
    schema.upgrade(database)

    def work(connection: Connection) -> None:
        connection.execute(delete(Heartbeat))
        connection.execute(delete(UserSession))
        audit.record_action(
            connection,
            AUDIT_ACTOR,
            AuditAction.RESTORE,
            detail=f"backup of {manifest.made_at}, schema {manifest.schema}",
        )

    database.write(work)


def _require_compatible(database: Database, manifest: Manifest) -> None:
    if database.dialect != manifest.database:
        raise BackupError(
            f"This backup contains a database of {manifest.database}, and the settings name one of {database.dialect}: "
            "set PNEUMOWATCH_DATABASE_URL as it was (to nothing, for the SQLite of `up`)."
        )
    schema.require_released(manifest.schema, "This backup")
    if not schema.is_known_revision(manifest.schema):
        raise BackupError(
            f"This backup is of pneumowatch {manifest.version} with the schema {manifest.schema}, which this version "
            "does not know: restore it with that version, or a newer one."
        )


def _require_stopped(database: Database) -> None:
    """Raise BackupError if components are running, according to their heartbeats."""

    def alive(connection: Connection) -> list[str]:
        if not inspect(connection).has_table(Heartbeat.__tablename__):
            return []
        since = database_now(connection) - timedelta(seconds=SILENT_AFTER_SECONDS)
        rows = select(Heartbeat.component, Heartbeat.machine, Heartbeat.pid).where(Heartbeat.beat_at > since)
        return [row.component for row in connection.execute(rows) if not _has_ended(row.machine, row.pid)]

    if database.dialect == "sqlite" and dump.is_empty(database):
        return  # not opened, because that would create a file
    components: list[str] = []
    with suppress(DBAPIError, DatabaseUnavailable):  # the database may be damaged, and is to be replaced
        components = database.read(alive)
    if components:
        raise BackupError(
            f"Components of pneumowatch are running ({', '.join(components)}); stop them, and if one was killed, wait "
            f"{SILENT_AFTER_SECONDS:.0f} seconds."
        )


def _has_ended(machine: str, pid: int) -> bool:
    """Tell whether a process is known to have ended; for a process of another machine it is not known."""
    return machine == socket.gethostname() and not Path(f"/proc/{pid}").exists()


def _same_content(first: Path, second: Path) -> bool:
    return first.read_bytes().strip() == second.read_bytes().strip()


def _contains(manifest: Manifest, name: str) -> bool:
    return bool(manifest.beneath(name) or manifest.links_beneath(name))


def _move_aside(paths: Sequence[Path], into: Path) -> list[Path]:
    """Move those paths that exist into a folder. Returns that folder, or nothing if none exists."""
    existing = [path for path in paths if path.exists() or path.is_symlink()]
    if not existing:
        return []
    into.mkdir(0o700, exist_ok=True)
    for path in existing:
        path.rename(into / path.name)
    return [into]


def _copy_verified(source: Path, target: Path, entry: FileEntry) -> None:
    """Copy a file of the backup. Raises BackupError if it has changed since it was verified."""
    if copy_file(source, target).sha256 != entry.sha256:
        raise BackupError("The backup has changed while it was read: it was not restored.")
    target.chmod(entry.mode)
    os.utime(target, ns=(entry.mtime_ns, entry.mtime_ns))
