"""The handover on a real ledger and model store: who is promoted comes to work, who cannot be used does not."""

import errno
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from programs import environment
from sqlalchemy import text
from standin import SIDE, reference_films, tiny_network, write_model
from support.waiting import eventually

from db import schema
from db.registry import model_cache, model_registry
from db.session import Database
from pneumowatch.errors import ModelError, SettingsError, ShuttingDown
from pneumowatch.model_folder import REFERENCE, ModelFolder, champion_folder
from pneumowatch.settings import Settings
from worker.decode import DecodedFile
from worker.inference import model_reloader
from worker.inference.model_reloader import ModelReloader, load_initial_model
from worker.inference.serving import ModelSlot, ServedModel, load_served_model

PATIENCE = 60.0  # seconds
GROWTH = 300 * 2**20  # bytes: what a worker of the shipped model may hold more after twenty swaps
CREEP = 100 * 2**20  # ... and how much more than after the fifth


class Desk:
    """A worker's post in its model store, and those who promote."""

    def __init__(self, folder: Path, first: ModelFolder) -> None:
        folder.mkdir()
        self.settings = Settings(data_dir=folder, batch_size=4)
        self.stop = threading.Event()
        self.database = Database(self.settings.database, self.stop)
        schema.upgrade(self.database)
        model_cache.register_folder(self.database, first, "test")
        self.loads = 0
        self.looks = 0
        self.post = ModelSlot(self.load())

    def load(self, version: str | None = None) -> ServedModel:
        self.loads += 1
        return load_served_model(model_cache.fetch_model(self.database, self.settings.models, version), self.settings)

    def add(self, folder: ModelFolder) -> str:
        model_cache.register_folder(self.database, folder, "test")
        return folder.version

    def promote(self, version: str) -> None:
        self.database.write(lambda c: model_registry.promote_to_champion(c, version, "test", "for the test"))

    def wait_for_looks(self, count: int) -> None:
        """Until the handover has looked so many times more, from beginning to end."""
        enough = self.looks + 1 + count  # one may have begun before
        eventually(lambda: self.looks >= enough)

    def close(self) -> None:
        self.stop.set()
        self.post.close()
        self.database.close()


@pytest.fixture
def desk(tmp_path: Path, tiny_model: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr(model_reloader, "CHAMPION_CHECK_SECONDS", 0.01)
    made = Desk(tmp_path / "data", tiny_model)
    look = ModelReloader._look

    def counted(watching: ModelReloader) -> None:
        look(watching)
        made.looks += 1

    monkeypatch.setattr(ModelReloader, "_look", counted)
    watching = ModelReloader(made.database, made.post, made.load)
    yield made
    watching.close()
    made.close()


def another(folder: Path, version: str, side: int = SIDE) -> ModelFolder:
    return write_model(folder / version, tiny_network(side), side, version=version)


def unlike_its_reference(folder: Path, version: str) -> ModelFolder:
    made = another(folder, version)
    np.savez(made.path / REFERENCE, images=reference_films(), probabilities=np.float32([0.1, 0.9, 0.1]))
    return made


def test_a_promoted_model_comes_to_work_and_goes_again(desk: Desk, tmp_path: Path) -> None:
    desk.promote(desk.add(another(tmp_path, "standin-2", side=48)))
    eventually(lambda: desk.post.version == "standin-2")
    with desk.post.use() as serving:
        black = DecodedFile(1, np.zeros((48, 48), np.uint8), "", 1, 1)
        assert len(serving.predict([black]).probability) == 1
    assert champion_folder(desk.settings.models).version == "standin-2"
    desk.database.write(lambda c: model_registry.roll_back_champion(c, "test", "worse"))
    eventually(lambda: desk.post.version == "standin-1")
    assert champion_folder(desk.settings.models).version == "standin-1"


def test_nothing_is_loaded_while_nobody_is_promoted(desk: Desk, tmp_path: Path) -> None:
    desk.add(another(tmp_path, "standin-2"))
    desk.wait_for_looks(20)
    assert (desk.loads, desk.post.version) == (1, "standin-1")


def test_a_model_that_fails_its_check_stays_out_and_is_not_tried_in_a_hurry(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.promote(desk.add(unlike_its_reference(tmp_path, "broken-1")))
    eventually(lambda: desk.loads > 1)
    desk.wait_for_looks(20)
    assert (desk.loads, desk.post.version) == (2, "standin-1")
    said = capsys.readouterr().out
    assert said.count("the current one stays in use") == 1
    assert "broken-1" in said
    desk.promote(desk.add(another(tmp_path, "standin-2")))  # the next one is taken at once
    eventually(lambda: desk.post.version == "standin-2")


def test_a_model_that_fails_is_tried_again_later_and_later(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a disk was full, and then is not."""
    monkeypatch.setattr(model_reloader, "FIRST_RELOAD_DELAY", 0.1)
    models = desk.settings.models
    shutil.rmtree(models)
    models.write_text("no folder")
    began = time.monotonic()
    desk.promote(desk.add(another(tmp_path, "standin-2")))
    eventually(lambda: desk.loads >= 4)
    assert time.monotonic() - began >= 0.1 + 0.2
    assert desk.post.version == "standin-1"
    models.unlink()
    eventually(lambda: desk.post.version == "standin-2")


def test_a_promotion_taken_back_before_it_could_be_used_is_forgotten(desk: Desk, tmp_path: Path) -> None:
    desk.promote(desk.add(unlike_its_reference(tmp_path, "broken-1")))
    eventually(lambda: desk.loads > 1)
    desk.database.write(lambda c: model_registry.roll_back_champion(c, "test", "it does not load"))
    desk.wait_for_looks(20)
    assert (desk.loads, desk.post.version) == (2, "standin-1")


def test_ending_takes_no_longer_than_a_look(tmp_path: Path, tiny_model: ModelFolder) -> None:
    desk = Desk(tmp_path / "data", tiny_model)
    watching = ModelReloader(desk.database, desk.post, desk.load)
    desk.stop.set()
    began = time.monotonic()
    watching.close()
    desk.close()
    assert time.monotonic() - began < PATIENCE


# the model with which a worker begins


def begin(desk: Desk, patient: bool = True) -> ServedModel:
    return load_initial_model(desk.database, desk.load, desk.stop if patient else None)


def test_a_worker_begins_with_the_champion(desk: Desk, tmp_path: Path) -> None:
    desk.promote(desk.add(another(tmp_path, "standin-2")))
    with closing(begin(desk)) as serving:
        assert serving.version == "standin-2"


def test_where_the_champion_cannot_be_loaded_the_one_before_it_that_can_reads_films(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for version in ("standin-2", "standin-3"):
        desk.promote(desk.add(another(tmp_path, version)))
    desk.add(another(tmp_path, "challenger-1"))  # has never served
    for version in ("broken-1", "broken-2"):
        desk.promote(desk.add(unlike_its_reference(tmp_path, version)))
    with closing(begin(desk)) as serving:
        assert serving.version == "standin-3"
    said = capsys.readouterr().out
    assert "a former champion cannot be loaded either" in said
    assert "the champion cannot be loaded; its predecessor classifies scans" in said
    assert "model=broken-2" in said


def test_the_champion_comes_to_work_later_where_it_can(desk: Desk, tmp_path: Path, monkeypatch: Any) -> None:
    """As where the disk under its store was full when the worker began."""
    monkeypatch.setattr(model_reloader, "FIRST_RELOAD_DELAY", 0.05)
    models = desk.settings.models
    desk.promote(desk.add(another(tmp_path, "standin-2")))
    eventually(lambda: desk.post.version == "standin-2")
    full = monkeypatch.context()
    with full as patch:
        patch.setattr(model_cache, "_install", disk_full)
        shutil.rmtree(models / "standin-2")
        serving = begin(desk)
    assert serving.version == "standin-1"
    post = ModelSlot(serving)
    watching = ModelReloader(desk.database, post, desk.load)
    eventually(lambda: post.version == "standin-2")
    watching.close()
    post.close()


def disk_full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_where_no_model_can_be_loaded_films_wait_for_one(
    tmp_path: Path, tiny_model: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_reloader, "FIRST_RELOAD_DELAY", 0.02)
    monkeypatch.setattr(model_reloader, "LONGEST_MODEL_WAIT", 0.1)
    desk = Desk(tmp_path / "data", tiny_model)
    models = desk.settings.models
    shutil.rmtree(models)
    models.write_text("no folder")
    with pytest.raises(ModelError, match="cannot be written to"):
        begin(desk, patient=False)
    with ThreadPoolExecutor(1) as pool:
        beginning = pool.submit(begin, desk)
        before = desk.loads
        eventually(lambda: desk.loads > before + 3)
        assert not beginning.done()
        models.unlink()
        with closing(beginning.result(PATIENCE)) as serving:
            assert serving.version == "standin-1"
        shutil.rmtree(models)
        models.write_text("no folder")
        waiting = pool.submit(begin, desk)
        desk.stop.set()
        with pytest.raises(ShuttingDown):
            waiting.result(PATIENCE)
    desk.close()


def test_a_device_that_is_not_there_is_no_reason_to_wait(desk: Desk) -> None:
    def load(version: str | None) -> ServedModel:
        raise SettingsError("TensorFlow does not see gpu:0.")

    with pytest.raises(SettingsError):
        load_initial_model(desk.database, load, desk.stop)


def test_a_model_at_work_that_a_restored_database_does_not_know_is_registered_anew(
    tmp_path: Path, tiny_model: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else nothing that it reads could be recorded, until another is at work."""
    monkeypatch.setattr(model_reloader, "CHAMPION_CHECK_SECONDS", 0.01)
    desk = Desk(tmp_path / "data", tiny_model)
    desk.promote(desk.add(another(tmp_path, "standin-2")))
    desk.post.swap(desk.load())
    # as last night's backup has it; and its champion cannot be loaded
    desk.database.write(lambda c: c.execute(text("DELETE FROM promotions WHERE version = 'standin-2'")))
    desk.database.write(lambda c: c.execute(text("DELETE FROM models WHERE version = 'standin-2'")))
    desk.database.write(lambda c: c.execute(text("UPDATE models SET champion = true")))

    def load() -> ServedModel:
        raise ModelError("damaged")

    def enlist(version: str) -> None:
        model_cache.register_folder(desk.database, ModelFolder.read(desk.settings.models / version), "test")

    watching = ModelReloader(desk.database, desk.post, load, enlist)
    eventually(lambda: desk.database.read(lambda c: model_registry.is_registered(c, "standin-2")))
    assert desk.database.read(model_registry.champion_version) == "standin-1"
    assert desk.post.version == "standin-2"
    watching.close()
    desk.close()


SWAPS = """
import json, sys
from pathlib import Path
import numpy as np
from pneumowatch.model_folder import shipped_folder
from pneumowatch.settings import Settings
from worker.decode import DecodedFile
from worker.inference.serving import ModelSlot, load_served_model

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

def read():
    with post.use() as serving:
        for _ in range(2):
            serving.predict(films)

settings, folder = Settings(data_dir=Path(sys.argv[1])), shipped_folder()
post = ModelSlot(load_served_model(folder, settings))
films = [DecodedFile(n, np.full((folder.side, folder.side), n, np.uint8), "", 1, 1) for n in range(settings.batch_size)]
read()
bytes_held = [held()]
for _ in range(20):
    post.swap(load_served_model(folder, settings))
    read()
    bytes_held.append(held())
print(json.dumps(bytes_held))
"""


def test_twenty_swaps_of_the_shipped_model_take_no_more_memory_than_two_models(tmp_path: Path) -> None:
    """In a process of its own, as a worker is. Measured: 105 MiB more after the first swap, 105 to 156 after each of
    the next sixty."""
    done = subprocess.run(
        [sys.executable, "-c", SWAPS, str(tmp_path)], capture_output=True, text=True, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr
    held = json.loads(done.stdout)
    assert len(held) == 21
    assert held[20] - held[0] < GROWTH
    assert max(held[16:]) - max(held[1:6]) < CREEP
