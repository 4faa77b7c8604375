"""Write a backup: one folder with the database, the patient key and the folders that only pneumowatch fills.

    manifest.json       when and by which version it was made, and each file's SHA-256
    database.sqlite     or database.pgdump
    patient.key         the secret: hence only the folder's owner may read it
    images/ models/ uploads/

The database is copied first, so that every file it names exists when the folders are copied. Files that are added
meanwhile have no row; the watcher and the workers handle them. The backup gets its name only when it is complete.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Final

from sqlalchemy import Connection, inspect

from db import deployment, schema
from db.maintenance import dump
from db.maintenance.dump import StepProgress
from db.models import Deployment
from db.session import Database
from db.worklist import audit
from db.worklist.audit import AuditAction
from pneumowatch import __version__, inboxes, patient_hashing
from pneumowatch.errors import BackupError
from pneumowatch.imaging import image_store
from pneumowatch.settings import Settings

MANIFEST_FORMAT: Final = 1
MANIFEST_FILE: Final = "manifest.json"
PATIENT_KEY_FILE: Final = "patient.key"
BACKUP_STAGING_PREFIX: Final = ".unfinished-"
BACKUP_CHUNK_BYTES: Final = 2**20
PRIVATE_MODE: Final = 0o600
AUDIT_ACTOR: Final = "command line"


@dataclass(frozen=True)
class FileEntry:
    """The hash and the metadata of one file. An uploaded file is identified by its size and mtime."""

    sha256: str
    size: int
    mtime_ns: int
    mode: int


@dataclass(frozen=True)
class Manifest:
    """The content of a backup. `schema`: the revision of the tables. `files`: by path within the backup's folder."""

    made_at: str
    version: str
    schema: str
    database: str
    files: dict[str, FileEntry]
    links: dict[str, str] = field(default_factory=dict)
    format: int = MANIFEST_FORMAT

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self.files.values())

    @property
    def has_key(self) -> bool:
        return PATIENT_KEY_FILE in self.files

    def beneath(self, folder: str) -> dict[PurePosixPath, FileEntry]:
        """Return the files of one of the folders, by their path in it."""
        mine = (PurePosixPath(path) for path in self.files if path.startswith(f"{folder}/"))
        return {path.relative_to(folder): self.files[str(path)] for path in mine}

    def links_beneath(self, folder: str) -> dict[PurePosixPath, str]:
        mine = (PurePosixPath(path) for path in self.links if path.startswith(f"{folder}/"))
        return {path.relative_to(folder): self.links[str(path)] for path in mine}


def backed_up_folders(settings: Settings) -> dict[str, Path]:
    """Return {name in a backup: folder} of the folders that only pneumowatch fills; they need not exist."""
    return {
        "images": settings.data_dir / image_store.IMAGES_FOLDER,
        "models": settings.models,
        "uploads": inboxes.uploads_folder(settings),
    }


def create_backup(
    database: Database, settings: Settings, out: Path, with_key: bool, progress: Callable[[str], StepProgress]
) -> Manifest:
    """Write a backup into `out`, which must not exist, while all components run.

    Args:
        with_key: include the patient key, without which the next images of a patient cannot be matched to earlier ones.
        progress: takes the name of a step and returns a function that takes its progress.

    Raises:
        BackupError: it cannot be written; nothing is left of it then.
        SchemaMismatch: the database is a development version's, whose backup this version could not restore.
        SettingsError: the patient key is missing or not the database's.
    """
    if out.exists() or out.is_symlink():
        raise BackupError(f"{out} exists already, and a backup is never overwritten: name another folder.")
    revision = schema.current_revision(database)
    if revision is None:
        raise BackupError("The database has no tables yet: there is nothing to back up.")
    schema.require_released(revision)
    with _staging_folder(out) as staging:
        name = dump.DUMP_FILES[database.dialect]
        dump.write_dump(database, staging / name, progress("database"))
        links: dict[str, str] = {}
        files = {name: _make_private(staging / name)}
        if with_key and (key := _key_of(database, settings)):
            (staging / PATIENT_KEY_FILE).write_bytes(key)
            files[PATIENT_KEY_FILE] = _make_private(staging / PATIENT_KEY_FILE)
        for folder, source in backed_up_folders(settings).items():
            _copy_folder(source, staging, folder, files, links, progress(folder))
        made_at = datetime.now(UTC).isoformat(timespec="seconds")
        manifest = Manifest(made_at, __version__, revision, database.dialect, files, links)
        (staging / MANIFEST_FILE).write_text(json.dumps(asdict(manifest), indent=1) + "\n", "ascii")
        _make_private(staging / MANIFEST_FILE)
    if revision == schema.head_revision():
        database.write(lambda c: audit.record_action(c, AUDIT_ACTOR, AuditAction.BACKUP, detail=f"schema {revision}"))
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Read a backup's manifest. Raises BackupError if there is no backup or this version cannot read it."""
    try:
        content = json.loads((folder / MANIFEST_FILE).read_bytes())
        if content["format"] != MANIFEST_FORMAT:
            raise BackupError(
                f"This backup was made by pneumowatch {content['version']}; restore it with that version."
            )
        files = {name: FileEntry(**entry) for name, entry in content.pop("files").items()}
        manifest = Manifest(files=files, **content)
    except OSError as error:
        raise BackupError(f"{folder} cannot be read as a backup: {MANIFEST_FILE}: {error.strerror}.") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise BackupError(f"The manifest of {folder} is damaged.") from None
    if manifest.database not in dump.DUMP_FILES or dump.DUMP_FILES[manifest.database] not in files:
        raise BackupError(f"The manifest of {folder} lists no database.")
    if not all(_is_inside(name) for name in (*files, *manifest.links, *manifest.links.values())):
        raise BackupError(f"The manifest of {folder} lists files outside it.")
    return manifest


def verify_backup(folder: Path, manifest: Manifest, progress: StepProgress) -> None:
    """Read every file. Raises BackupError if one is missing or changed; the message contains no file name."""
    done, damaged = 0, 0
    for name, entry in manifest.files.items():
        try:
            intact = _sha256_of(folder / name) == entry.sha256
        except OSError:
            intact = False
        damaged += not intact
        done += entry.size
        progress(done, manifest.size)
    if damaged:
        raise BackupError(
            f"The backup is damaged: {damaged} of its {len(manifest.files)} files are missing or changed."
        )


def _key_of(database: Database, settings: Settings) -> bytes | None:
    """Return the content of the patient key's file, or None if no key was ever used. Raises SettingsError."""
    known = database.read(_stored_fingerprint)
    if known is None and not settings.patient_key_path.exists():
        return None
    key = patient_hashing.read_key(settings.patient_key_path)
    if known is not None:
        deployment.check_patient_key(database, settings)
    return f"{key.hex()}\n".encode()


def _stored_fingerprint(connection: Connection) -> str | None:
    if not inspect(connection).has_table(Deployment.__tablename__):
        return None  # tables of an earlier version
    return deployment.stored_fingerprint(connection)


def visible_entries(folder: Path) -> Iterator[Path]:
    """Yield the entries of a folder except hidden ones: locks, unfinished files, replaced files."""
    if folder.is_dir():
        yield from (path for path in folder.iterdir() if not path.name.startswith("."))


@contextmanager
def _staging_folder(out: Path) -> Iterator[Path]:
    """Yield a new folder beside `out`. At the end it is renamed to `out`, or removed after an error."""
    try:
        staging = Path(tempfile.mkdtemp(prefix=BACKUP_STAGING_PREFIX, dir=out.absolute().parent))
    except OSError as error:
        raise BackupError(
            f"No backup can be written into {out.absolute().parent}: {error.strerror}. That folder must exist already: "
            "if a mount is missing, creating the folder would write to the wrong disk."
        ) from None
    try:
        yield staging
        os.sync()
        # of two backups at once, one fails: a rename never replaces a folder that is not empty
        staging.rename(out.absolute())
    except OSError as error:
        raise BackupError(f"The backup cannot be written: {error.strerror}.") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _copy_folder(
    source: Path, staging: Path, name: str, files: dict[str, FileEntry], links: dict[str, str], progress: StepProgress
) -> None:
    found = [path for path in _walk(source) if path.is_symlink() or path.is_file()]
    for number, path in enumerate(found, 1):
        relative = f"{name}/{path.relative_to(source).as_posix()}"
        target = staging / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            links.update(_link(path, source, relative))
        else:
            with suppress(FileNotFoundError):  # purged, erased or replaced meanwhile
                files[relative] = copy_file(path, target)
        progress(number, len(found))


def _link(path: Path, source: Path, relative: str) -> dict[str, str]:
    """Return {path: target} of a link, if its target is inside the folder: MODEL_DIR/champion."""
    target = os.fspath(path.readlink())
    return {relative: target} if _is_inside(target) and (source / target).exists() else {}


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the files and links of a folder and its subfolders, except hidden ones."""
    for path in sorted(visible_entries(folder)):
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)
        else:
            yield path


def copy_file(source: Path, target: Path) -> FileEntry:
    """Copy a file with its mtime, readable by its owner alone."""
    with source.open("rb") as file:
        status = os.fstat(file.fileno())  # of the opened file, whatever replaces it meanwhile
        digest = hashlib.sha256()
        size = 0
        with target.open("wb") as out:
            os.fchmod(out.fileno(), PRIVATE_MODE)
            while chunk := file.read(BACKUP_CHUNK_BYTES):
                digest.update(chunk)
                out.write(chunk)
                size += len(chunk)
    os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))
    return FileEntry(digest.hexdigest(), size, status.st_mtime_ns, status.st_mode & 0o777)


def _make_private(file: Path) -> FileEntry:
    """Make a file readable by its owner alone, and return its entry."""
    file.chmod(PRIVATE_MODE)
    status = file.stat()
    return FileEntry(_sha256_of(file), status.st_size, status.st_mtime_ns, PRIVATE_MODE)


def _sha256_of(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _is_inside(name: Any) -> bool:
    path = PurePosixPath(name)
    return isinstance(name, str) and bool(path.parts) and not path.is_absolute() and ".." not in path.parts
