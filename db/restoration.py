"""A backup put back: what was verified is copied beside its place, brought up to this version, and moved into place."""

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

from db import audit, dump, schema
from db.audit import Act
from db.backup import BY, KEY, UNFINISHED, Entry, Manifest, Watch, copied, entries, folders
from db.dialect import clock
from db.heartbeats import SILENT_SECONDS
from db.models import Heartbeat, Session
from db.session import Database
from pneumowatch import inboxes
from pneumowatch.errors import BackupError, DatabaseAway
from pneumowatch.settings import Settings

DATABASE_MODE: Final = 0o640
FOLDER_MODE: Final = 0o755


def put_back(
    settings: Settings, folder: Path, manifest: Manifest, replace: bool, watch: Callable[[str], Watch]
) -> list[Path]:
    """Put a verified backup back, and bring its tables up to this version. Returns the folders that hold what made way.

    Args:
        replace: what is there may make way: files are moved aside, tables of PostgreSQL are lost.
        watch: gives, for the name of a step, what takes its progress.

    Raises BackupError where something is there and may not make way, parts are running, or it is not for this database.
    """
    with closing(Database(settings.database)) as database:
        _require_fitting(database, manifest)
        _require_nobody(database)
        taken = _taken(settings, database, folder, manifest)
        if taken and not replace:
            raise BackupError(
                f"There is something already ({', '.join(taken)}). Name an empty data folder and an empty database, "
                "or say --replace: files are then moved aside, and tables of PostgreSQL are lost."
            )
        aside = f"replaced-{datetime.now(UTC):%Y%m%dT%H%M%S}"
        moved = []
        try:
            for name, place in folders(settings).items():
                moved += _put_back_folder(place, folder / name, name, manifest, aside, watch(name))
            moved += _put_back_key(settings.patient_key_path, folder, manifest, aside)
            moved += _put_back_database(database, folder, manifest, aside)
        except OSError as error:
            raise BackupError(f"The backup cannot be put back: {error.strerror}. Mend that, and try again.") from error
        return moved


def _taken(settings: Settings, database: Database, folder: Path, manifest: Manifest) -> list[str]:
    """What stands where the backup's is to go."""
    taken = [str(place) for name, place in folders(settings).items() if _holds(manifest, name) and any(entries(place))]
    key = settings.patient_key_path
    if manifest.has_key and key.exists() and not _same(key, folder / KEY):
        taken.append(str(key))
    return taken if dump.is_empty(database) else [*taken, "the database"]


def _put_back_folder(place: Path, source: Path, name: str, manifest: Manifest, aside: str, watch: Watch) -> list[Path]:
    """All of it is copied before anything moves, inside the folder itself: it may be a mount of its own."""
    if not _holds(manifest, name):
        return []
    place.mkdir(inboxes.MODE if name == inboxes.UPLOADS else FOLDER_MODE, parents=True, exist_ok=True)
    files = manifest.beneath(name)
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=place) as scratch:
        for number, (path, entry) in enumerate(files.items(), 1):
            target = Path(scratch) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy(source / path, target, entry)
            watch(number, len(files))
        for path, to in manifest.links_beneath(name).items():
            (Path(scratch) / path).symlink_to(to)
        moved = _move_aside(list(entries(place)), place / f".{aside}")
        for made in list(Path(scratch).iterdir()):
            made.rename(place / made.name)
    return moved


def _put_back_key(place: Path, folder: Path, manifest: Manifest, aside: str) -> list[Path]:
    if not manifest.has_key or (place.exists() and _same(place, folder / KEY)):
        return []
    place.parent.mkdir(parents=True, exist_ok=True)
    moved = _move_aside([place], place.parent / aside)
    _copy(folder / KEY, place, manifest.files[KEY])
    return moved


def _put_back_database(database: Database, folder: Path, manifest: Manifest, aside: str) -> list[Path]:
    dumped = dump.FILES[manifest.database]
    if database.dialect != "sqlite":
        dump.put_back(database, folder / dumped)
        _bring_up(database, manifest)
        return []
    database.close()
    place = dump.sqlite_file(database.engine.url)
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=place.parent) as scratch:
        made = Path(scratch) / place.name
        _copy(folder / dumped, made, manifest.files[dumped])
        made.chmod(DATABASE_MODE)
        with closing(Database(f"sqlite:///{made}")) as staged:
            _bring_up(staged, manifest)
        os.sync()
        with_companions = [place.with_name(place.name + suffix) for suffix in ("", "-wal", "-shm")]
        moved = _move_aside(with_companions, place.parent / aside)
        made.rename(place)
    return moved


def _bring_up(database: Database, manifest: Manifest) -> None:
    """To this version; and what was alive when the backup was made, parts and sessions, is not taken for alive."""
    schema.upgrade(database)

    def work(connection: Connection) -> None:
        connection.execute(delete(Heartbeat))
        connection.execute(delete(Session))
        audit.record(connection, BY, Act.RESTORE, detail=f"backup of {manifest.made_at}, schema {manifest.schema}")

    database.write(work)


def _require_fitting(database: Database, manifest: Manifest) -> None:
    if database.dialect != manifest.database:
        raise BackupError(
            f"This backup holds a database of {manifest.database}, and the settings name one of {database.dialect}: "
            "set PNEUMOWATCH_DATABASE_URL as it was (to nothing, for the SQLite of `up`)."
        )
    if not schema.is_known(manifest.schema):
        raise BackupError(
            f"This backup is of pneumowatch {manifest.version} with the schema {manifest.schema}, which this version "
            "does not know: put it back with that version, or a newer one."
        )


def _require_nobody(database: Database) -> None:
    """Raises BackupError where parts live, as the database says."""

    def alive(connection: Connection) -> list[str]:
        if not inspect(connection).has_table(Heartbeat.__tablename__):
            return []
        since = clock(connection) - timedelta(seconds=SILENT_SECONDS)
        rows = select(Heartbeat.part, Heartbeat.machine, Heartbeat.pid).where(Heartbeat.beat_at > since)
        return [row.part for row in connection.execute(rows) if not _is_gone(row.machine, row.pid)]

    if database.dialect == "sqlite" and dump.is_empty(database):
        return  # not even opened: that would make a file
    parts: list[str] = []
    with suppress(DBAPIError, DatabaseAway):  # what is there may be damaged; that is what a restore is for
        parts = database.read(alive)
    if parts:
        raise BackupError(
            f"Parts of pneumowatch are running ({', '.join(parts)}); stop them, and wait {SILENT_SECONDS:.0f} seconds "
            "where one was killed."
        )


def _is_gone(machine: str, pid: int) -> bool:
    """Whether it is known of a process that it has ended: of one of another machine it is not."""
    return machine == socket.gethostname() and not Path(f"/proc/{pid}").exists()


def _same(one: Path, other: Path) -> bool:
    return one.read_bytes().strip() == other.read_bytes().strip()


def _holds(manifest: Manifest, name: str) -> bool:
    return bool(manifest.beneath(name) or manifest.links_beneath(name))


def _move_aside(paths: Sequence[Path], into: Path) -> list[Path]:
    """Returns the folder into which those were moved that are there; none where none is."""
    there = [path for path in paths if path.exists() or path.is_symlink()]
    if not there:
        return []
    into.mkdir(0o700, exist_ok=True)
    for path in there:
        path.rename(into / path.name)
    return [into]


def _copy(source: Path, target: Path, entry: Entry) -> None:
    """Raises BackupError where it is not what was verified a moment ago."""
    if copied(source, target).sha256 != entry.sha256:
        raise BackupError("The backup has changed while it was read: it was not put back.")
    target.chmod(entry.mode)
    os.utime(target, ns=(entry.mtime_ns, entry.mtime_ns))
