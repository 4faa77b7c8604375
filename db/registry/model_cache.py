"""MODEL_DIR: this machine's verified copies of the models in the database.

A copy is used only if each file is what the database holds. A missing or damaged copy is unpacked again beside its
place and moved there, so that nobody ever reads an incomplete one. `MODEL_DIR/champion` names the last champion that
was verified here; it is used where there is no database.
"""

import fcntl
import hashlib
import io
import re
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from db.registry import model_registry
from db.session import Database
from pneumowatch.errors import ModelError
from pneumowatch.model_folder import CHAMPION_LINK, ModelFolder, champion_folder, shipped_folder

MEMBER_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")  # allowed names of a model's files
MAX_MODEL_FILES: Final = 64
MAX_MODEL_BYTES: Final = 2**29  # of an archive; PostgreSQL allows twice that in a column
ZIP_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the earliest time in a zip file
MODEL_STAGING_PREFIX: Final = ".unfinished-"


def fetch_model(database: Database, models: Path, version: str | None = None) -> ModelFolder:
    """Return a verified model in MODEL_DIR/<version>; unpack the database's archive if it is missing or damaged.

    Args:
        models: MODEL_DIR, created if missing.
        version: None for the champion, which MODEL_DIR/champion then names.

    Raises:
        ModelError: there is no such model, its archive is not a model, or MODEL_DIR cannot be written to.
    """
    target = version or database.read(model_registry.champion_version)
    if target is None:
        raise ModelError("The database has no model yet; a worker registers the first one when it starts.")
    sha256 = database.read(lambda connection: model_registry.archive_sha256(connection, target))
    try:
        models.mkdir(parents=True, exist_ok=True)
        with _locked(models):
            if not _is_intact(models / target, sha256):
                _install(
                    models,
                    target,
                    database.read(lambda connection: model_registry.model_archive(connection, target)),
                    sha256,
                )
            if version is None:
                _link_champion(models, target, sha256)
    except OSError as error:
        raise ModelError(f"The model store {models} cannot be written to: {error.strerror}.") from error
    folder = ModelFolder.read(models / target)
    folder.verify()
    return folder


def register_local_models(database: Database, models: Path, by: str) -> None:
    """Register this machine's models: the shipped one, and before it the one that MODEL_DIR/champion names.

    The latter is registered only while the database has no model, or one without an archive. So a shipped model that
    comes with an upgrade is registered as a challenger.

    Raises:
        ModelError: one of them is damaged, or registered with other weights.
    """
    known = database.read(model_registry.archive_hashes)
    complete = bool(known) and None not in known.values()
    for folder in [shipped_folder()] if complete else [champion_folder(models), shipped_folder()]:
        if known.get(folder.version) is None:
            register_folder(database, folder, by)


def register_folder(database: Database, folder: ModelFolder, by: str) -> None:
    """Register a model folder with its archive.

    Raises ModelError as `model_registry.register_model` and `ModelFolder.verify` do.
    """
    folder.verify()
    archive = pack_folder(folder)
    database.write(lambda connection: model_registry.register_model(connection, folder, archive, by))


def pack_folder(folder: ModelFolder) -> bytes:
    """Pack the plain files of a model folder as a zip archive.

    Equal folders give equal bytes, so that a hash identifies a copy. Nothing is compressed, as it makes weights no
    smaller.
    """
    try:
        return _pack_files(folder.path)
    except OSError as error:
        raise ModelError(f"{folder.path} cannot be read: {error.strerror}.") from error


def _pack_files(path: Path) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(path.iterdir()):
            if MEMBER_NAME.fullmatch(file.name) and file.is_file() and not file.is_symlink():
                entry = zipfile.ZipInfo(file.name, ZIP_EPOCH)
                entry.create_system, entry.external_attr = 3, 0o644 << 16
                archive.writestr(entry, file.read_bytes())
    return out.getvalue()


def _is_intact(path: Path, sha256: str) -> bool:
    """Tell whether the folder exists and holds what the archive of this hash holds."""
    try:
        return path.is_dir() and hashlib.sha256(_pack_files(path)).hexdigest() == sha256
    except OSError:
        return False


def _install(models: Path, version: str, archive: bytes, sha256: str) -> None:
    if hashlib.sha256(archive).hexdigest() != sha256:
        raise ModelError(f"The database's archive of the model {version} is damaged (its SHA-256 differs).")
    with tempfile.TemporaryDirectory(prefix=MODEL_STAGING_PREFIX, dir=models) as staging:
        staged = Path(staging) / "made"
        _unpack(archive, staged)
        folder = ModelFolder.read(staged)
        folder.verify()
        if folder.version != version:
            raise ModelError(f"The database's archive of the model {version} holds another model.")
        destination = models / version
        if destination.exists() or destination.is_symlink():
            destination.rename(Path(staging) / "damaged")
        staged.rename(destination)


def _unpack(archive: bytes, into: Path) -> None:
    """Unpack an archive. Raises ModelError if it holds anything but plain, uncompressed files within the bounds."""
    if len(archive) > MAX_MODEL_BYTES:
        raise ModelError(
            f"The archive of a model may have at most {MAX_MODEL_BYTES:,} bytes; this one has {len(archive):,}."
        )
    into.mkdir()
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as packed:
            entries = packed.infolist()
            plain = all(
                MEMBER_NAME.fullmatch(one.filename) and one.compress_type == zipfile.ZIP_STORED for one in entries
            )
            if not plain or len(entries) > MAX_MODEL_FILES:
                raise ModelError("The archive of a model holds something other than a model's files.")
            for entry in entries:
                (into / entry.filename).write_bytes(packed.read(entry))
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
        raise ModelError("The archive of a model is not a zip archive, or damaged.") from error


def _link_champion(models: Path, version: str, sha256: str) -> None:
    """Let MODEL_DIR/champion name <version>, replaced in one move."""
    champion_link = models / CHAMPION_LINK
    if champion_link.is_dir() and not champion_link.is_symlink():
        if _is_intact(champion_link, sha256):
            return  # a folder that was put there by hand and has become the champion
        champion_link.rename(Path(tempfile.mkdtemp(prefix=f"{CHAMPION_LINK}-before-", dir=models)) / CHAMPION_LINK)
    if champion_link.is_symlink() and champion_link.readlink() == Path(version):
        return
    with tempfile.TemporaryDirectory(prefix=MODEL_STAGING_PREFIX, dir=models) as staging:
        staged = Path(staging) / CHAMPION_LINK
        staged.symlink_to(version)
        staged.rename(champion_link)


@contextmanager
def _locked(models: Path) -> Iterator[None]:
    """Hold the lock on MODEL_DIR: workers of one machine share it, and one at a time may repair it."""
    with (models / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
