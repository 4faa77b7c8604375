"""MODEL_DIR as a verified cache of the database's models: filled, repaired, and never seen incomplete."""

import hashlib
import io
import shutil
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import update
from support.ledger_driver import run_concurrently
from support.tiny_models import tiny_network, write_model

from db.models import Model
from db.registry import model_cache, model_registry
from db.session import Database
from pneumowatch import model_folder
from pneumowatch.errors import ModelError
from pneumowatch.model_folder import CARD, REFERENCE, WEIGHTS, ModelFolder, champion_folder


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    network = tiny_network()
    kernel, bias = network.layers[-1].get_weights()
    network.layers[-1].set_weights([-kernel, bias])
    return write_model(tmp_path_factory.mktemp("models") / "other", network, version="standin-2")


@pytest.fixture
def store(database: Database, tiny_model: ModelFolder, other_model: ModelFolder, tmp_path: Path) -> Path:
    """An empty MODEL_DIR; the database knows two models, of which the tiny one serves."""
    model_cache.register_folder(database, tiny_model, "test")
    model_cache.register_folder(database, other_model, "test")
    return tmp_path / "store"


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_machine_with_an_empty_store_gets_the_champion(
    database: Database, store: Path, tiny_model: ModelFolder
) -> None:
    fetched = model_cache.fetch_model(database, store)
    assert fetched.path == store / "standin-1"
    assert contents(fetched.path) == contents(tiny_model.path)
    assert champion_folder(store).version == "standin-1"
    assert champion_folder(store).path == store / "standin-1"
    assert {file.name for file in store.iterdir()} == {"standin-1", "champion", ".lock"}


def test_another_version_does_not_become_the_champion(database: Database, store: Path) -> None:
    assert model_cache.fetch_model(database, store, "standin-2").version == "standin-2"
    assert not (store / "champion").exists()


def test_the_champion_is_followed(database: Database, store: Path) -> None:
    model_cache.fetch_model(database, store)
    database.write(lambda c: model_registry.promote_to_champion(c, "standin-2", "test", ""))
    assert model_cache.fetch_model(database, store).version == champion_folder(store).version == "standin-2"
    database.write(lambda c: model_registry.roll_back_champion(c, "test", ""))
    assert model_cache.fetch_model(database, store).version == champion_folder(store).version == "standin-1"
    assert (store / "standin-2").is_dir()  # at hand should it serve again


def spoil_weights(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / WEIGHTS).write_bytes(data)


def spoil_card(folder: Path) -> None:
    text = (folder / CARD).read_text("utf-8")
    assert '"value": 0.5' in text
    (folder / CARD).write_text(text.replace('"value": 0.5', '"value": 0.9'), "utf-8")


def cut_reference(folder: Path) -> None:
    (folder / REFERENCE).write_bytes((folder / REFERENCE).read_bytes()[:100])


def lose_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def become_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_bytes(b"")


@pytest.mark.parametrize("spoil", [spoil_weights, spoil_card, cut_reference, lose_weights, become_a_file])
def test_a_damaged_copy_is_mended(
    database: Database, store: Path, tiny_model: ModelFolder, spoil: Callable[[Path], None]
) -> None:
    spoil(model_cache.fetch_model(database, store).path)
    mended = model_cache.fetch_model(database, store)
    assert contents(mended.path) == contents(tiny_model.path)
    assert {file.name for file in store.iterdir()} == {"standin-1", "champion", ".lock"}


def test_a_copy_that_is_right_is_left_alone(database: Database, store: Path) -> None:
    before = model_cache.fetch_model(database, store).weights.stat()
    after = model_cache.fetch_model(database, store).weights.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_workers_of_one_machine_fetch_at_once(database: Database, store: Path, tiny_model: ModelFolder) -> None:
    folders = run_concurrently(*[lambda: model_cache.fetch_model(database, store)] * 5)
    assert {folder.path for folder in folders} == {store / "standin-1"}
    assert contents(store / "standin-1") == contents(tiny_model.path)


def test_who_reads_the_champion_meanwhile_always_finds_a_whole_one(database: Database, store: Path) -> None:
    model_cache.fetch_model(database, store)
    stop, faults = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            try:
                champion_folder(store).verify()
            except ModelError as error:
                faults.append(str(error))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for version in ["standin-2", "standin-1"] * 10:
            database.write(lambda c, version=version: model_registry.promote_to_champion(c, version, "test", ""))
            model_cache.fetch_model(database, store)
    finally:
        stop.set()
        reader.join()
    assert not faults


def test_a_folder_put_there_by_hand_is_moved_aside(
    database: Database, store: Path, tiny_model: ModelFolder, other_model: ModelFolder
) -> None:
    shutil.copytree(other_model.path, store / "champion")
    assert model_cache.fetch_model(database, store).version == champion_folder(store).version == "standin-1"
    (aside,) = store.glob("champion-before-*/champion")
    assert contents(aside) == contents(other_model.path)


def test_a_folder_put_there_by_hand_that_is_the_champion_stays(
    database: Database, store: Path, tiny_model: ModelFolder
) -> None:
    shutil.copytree(tiny_model.path, store / "champion")
    model_cache.fetch_model(database, store)
    assert not (store / "champion").is_symlink()
    assert champion_folder(store).version == "standin-1"


# archives


def test_equal_folders_give_equal_archives(tiny_model: ModelFolder, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_model.path, tmp_path / "copy", copy_function=shutil.copyfile))
    (copy / ".hidden").touch()
    (copy / "figures").mkdir()
    (copy / "link").symlink_to(WEIGHTS)
    assert model_cache.pack_folder(ModelFolder.read(copy)) == model_cache.pack_folder(tiny_model)
    (copy / "report.html").write_text("<p>")
    assert model_cache.pack_folder(ModelFolder.read(copy)) != model_cache.pack_folder(tiny_model)


def packed(*entries: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return out.getvalue()


@pytest.mark.parametrize(
    "archive",
    [
        b"",
        b"no archive",
        packed(),
        packed(("../outside", b"x")),
        packed(("/tmp/outside", b"x")),
        packed(("folder/", b"")),
        packed((".hidden", b"x")),
        packed((CARD, b"{}")),
        packed((CARD, b" " * 10**6), compression=zipfile.ZIP_DEFLATED),
        packed(*((f"file-{number}", b"") for number in range(65))),
        packed((CARD, b"x" * 1000))[:-100],
    ],
)
def test_an_archive_of_anything_else_is_refused(database: Database, store: Path, archive: bytes) -> None:
    values = {"archive": archive, "archive_sha256": hashlib.sha256(archive).hexdigest()}
    database.write(lambda c: c.execute(update(Model).where(Model.version == "standin-1").values(values)))
    with pytest.raises(ModelError):
        model_cache.fetch_model(database, store)
    assert {file.name for file in store.iterdir()} == {".lock"}
    assert not (store.parent / "outside").exists()


def test_an_archive_damaged_in_the_database_is_a_sentence(database: Database, store: Path) -> None:
    database.write(lambda c: c.execute(update(Model).values(archive=b"rotten")))
    with pytest.raises(ModelError, match="damaged"):
        model_cache.fetch_model(database, store)


def test_an_archive_of_another_version_is_refused(database: Database, store: Path, other_model: ModelFolder) -> None:
    archive = model_cache.pack_folder(other_model)
    values = {"archive": archive, "archive_sha256": hashlib.sha256(archive).hexdigest()}
    database.write(lambda c: c.execute(update(Model).where(Model.version == "standin-1").values(values)))
    with pytest.raises(ModelError, match="another"):
        model_cache.fetch_model(database, store)


def test_a_store_that_cannot_be_made_is_a_sentence(database: Database, store: Path) -> None:
    store.write_text("a file")
    with pytest.raises(ModelError, match="cannot be written"):
        model_cache.fetch_model(database, store)


# what a machine brings


@pytest.fixture
def shipped(tiny_model: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny model in the place of the one that comes with the project."""
    monkeypatch.setattr(model_folder, "SHIPPED_DIR", tmp_path / "shipped")
    shutil.copytree(tiny_model.path, tmp_path / "shipped" / "standin-1")
    return tmp_path / "shipped"


def versions(database: Database) -> dict[str, bool]:
    return {row["version"]: row["champion"] for row in database.read(model_registry.registered_models)}


def test_the_shipped_model_serves_where_there_is_no_other(database: Database, shipped: Path, tmp_path: Path) -> None:
    model_cache.register_local_models(database, tmp_path / "store", "worker")
    model_cache.register_local_models(database, tmp_path / "store", "worker")
    assert versions(database) == {"standin-1": True}
    assert model_cache.fetch_model(database, tmp_path / "store").version == "standin-1"


def test_a_shipped_model_that_comes_with_an_upgrade_is_a_challenger(
    database: Database, shipped: Path, other_model: ModelFolder, tmp_path: Path
) -> None:
    model_cache.register_local_models(database, tmp_path / "store", "worker")
    shutil.rmtree(shipped)
    shutil.copytree(other_model.path, shipped / "standin-2")
    model_cache.register_local_models(database, tmp_path / "store", "worker")
    assert versions(database) == {"standin-1": True, "standin-2": False}


def test_the_model_of_the_store_comes_first_where_the_database_knows_none(
    database: Database, shipped: Path, other_model: ModelFolder, tmp_path: Path
) -> None:
    shutil.copytree(other_model.path, tmp_path / "store" / "champion")
    model_cache.register_local_models(database, tmp_path / "store", "worker")
    assert versions(database) == {"standin-1": False, "standin-2": True}


def test_a_model_registered_without_an_archive_gets_one(database: Database, shipped: Path, tmp_path: Path) -> None:
    model_cache.register_local_models(database, tmp_path / "store", "worker")
    database.write(lambda c: c.execute(update(Model).values(archive=None, archive_sha256=None)))
    with pytest.raises(ModelError, match="no archive"):
        model_cache.fetch_model(database, tmp_path / "store")
    model_cache.register_local_models(database, tmp_path / "store", "worker")
    assert model_cache.fetch_model(database, tmp_path / "store").version == "standin-1"


def test_a_database_without_a_model_is_a_sentence(database: Database, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no model yet"):
        model_cache.fetch_model(database, tmp_path / "store")
