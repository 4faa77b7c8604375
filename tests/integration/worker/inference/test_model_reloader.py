"""The model reloader on a real ledger and model store: a promoted model is loaded, an unusable one is not."""

import errno
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text
from support.programs import environment
from support.tiny_models import SIDE, reference_images, tiny_network, write_model
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

DEADLINE_SECONDS = 60.0  # seconds
GROWTH = 300 * 2**20  # bytes: what a worker of the shipped model may hold more after twenty swaps
CREEP = 100 * 2**20  # ... and how much more than after the fifth


class ReloadingWorker:
    """A worker's model slot and store, and ways to promote."""

    def __init__(self, folder: Path, first: ModelFolder) -> None:
        folder.mkdir()
        self.settings = Settings(data_dir=folder, batch_size=4)
        self.stop = threading.Event()
        self.database = Database(self.settings.database, self.stop)
        schema.upgrade(self.database)
        model_cache.register_folder(self.database, first, "test")
        self.loads = 0
        self.looks = 0
        self.slot = ModelSlot(self.load())

    def load(self, version: str | None = None) -> ServedModel:
        self.loads += 1
        return load_served_model(model_cache.fetch_model(self.database, self.settings.models, version), self.settings)

    def add(self, folder: ModelFolder) -> str:
        model_cache.register_folder(self.database, folder, "test")
        return folder.version

    def promote(self, version: str) -> None:
        self.database.write(lambda c: model_registry.promote_to_champion(c, version, "test", "for the test"))

    def wait_for_looks(self, count: int) -> None:
        """Wait until the reloader has completed so many more checks."""
        enough = self.looks + 1 + count  # one may have begun before
        eventually(lambda: self.looks >= enough)

    def close(self) -> None:
        self.stop.set()
        self.slot.close()
        self.database.close()


@pytest.fixture
def worker(tmp_path: Path, tiny_model: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> Iterator[ReloadingWorker]:
    monkeypatch.setattr(model_reloader, "CHAMPION_CHECK_SECONDS", 0.01)
    made = ReloadingWorker(tmp_path / "data", tiny_model)
    look = ModelReloader._check

    def counted(watching: ModelReloader) -> None:
        look(watching)
        made.looks += 1

    monkeypatch.setattr(ModelReloader, "_check", counted)
    watching = ModelReloader(made.database, made.slot, made.load)
    yield made
    watching.close()
    made.close()


def another(folder: Path, version: str, side: int = SIDE) -> ModelFolder:
    return write_model(folder / version, tiny_network(side), side, version=version)


def unlike_its_reference(folder: Path, version: str) -> ModelFolder:
    made = another(folder, version)
    np.savez(made.path / REFERENCE, images=reference_images(), probabilities=np.float32([0.1, 0.9, 0.1]))
    return made


def test_a_promoted_model_comes_to_work_and_goes_again(worker: ReloadingWorker, tmp_path: Path) -> None:
    worker.promote(worker.add(another(tmp_path, "standin-2", side=48)))
    eventually(lambda: worker.slot.version == "standin-2")
    with worker.slot.use() as serving:
        black = DecodedFile(1, np.zeros((48, 48), np.uint8), "", 1, 1)
        assert len(serving.predict([black]).probability) == 1
    assert champion_folder(worker.settings.models).version == "standin-2"
    worker.database.write(lambda c: model_registry.roll_back_champion(c, "test", "worse"))
    eventually(lambda: worker.slot.version == "standin-1")
    assert champion_folder(worker.settings.models).version == "standin-1"


def test_nothing_is_loaded_while_nobody_is_promoted(worker: ReloadingWorker, tmp_path: Path) -> None:
    worker.add(another(tmp_path, "standin-2"))
    worker.wait_for_looks(20)
    assert (worker.loads, worker.slot.version) == (1, "standin-1")


def test_a_model_that_fails_its_check_stays_out_and_is_not_tried_in_a_hurry(
    worker: ReloadingWorker, tmp_path: Path, logged: Callable[[], str]
) -> None:
    worker.promote(worker.add(unlike_its_reference(tmp_path, "broken-1")))
    eventually(lambda: worker.loads > 1)
    worker.wait_for_looks(20)
    assert (worker.loads, worker.slot.version) == (2, "standin-1")
    said = logged()
    assert said.count("the current one stays in use") == 1
    assert "broken-1" in said
    worker.promote(worker.add(another(tmp_path, "standin-2")))  # the next one is taken at once
    eventually(lambda: worker.slot.version == "standin-2")


def test_a_model_that_fails_is_tried_again_later_and_later(
    worker: ReloadingWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a disk was full, and then is not."""
    monkeypatch.setattr(model_reloader, "FIRST_RELOAD_DELAY", 0.1)
    models = worker.settings.models
    shutil.rmtree(models)
    models.write_text("no folder")
    began = time.monotonic()
    worker.promote(worker.add(another(tmp_path, "standin-2")))
    eventually(lambda: worker.loads >= 4)
    assert time.monotonic() - began >= 0.1 + 0.2
    assert worker.slot.version == "standin-1"
    models.unlink()
    eventually(lambda: worker.slot.version == "standin-2")


def test_a_promotion_taken_back_before_it_could_be_used_is_forgotten(worker: ReloadingWorker, tmp_path: Path) -> None:
    worker.promote(worker.add(unlike_its_reference(tmp_path, "broken-1")))
    eventually(lambda: worker.loads > 1)
    worker.database.write(lambda c: model_registry.roll_back_champion(c, "test", "it does not load"))
    worker.wait_for_looks(20)
    assert (worker.loads, worker.slot.version) == (2, "standin-1")


def test_ending_takes_no_longer_than_a_look(tmp_path: Path, tiny_model: ModelFolder) -> None:
    worker = ReloadingWorker(tmp_path / "data", tiny_model)
    watching = ModelReloader(worker.database, worker.slot, worker.load)
    worker.stop.set()
    began = time.monotonic()
    watching.close()
    worker.close()
    assert time.monotonic() - began < DEADLINE_SECONDS


# the model with which a worker begins


def begin(worker: ReloadingWorker, patient: bool = True) -> ServedModel:
    return load_initial_model(worker.database, worker.load, worker.stop if patient else None)


def test_a_worker_begins_with_the_champion(worker: ReloadingWorker, tmp_path: Path) -> None:
    worker.promote(worker.add(another(tmp_path, "standin-2")))
    with closing(begin(worker)) as serving:
        assert serving.version == "standin-2"


def test_where_the_champion_cannot_be_loaded_the_one_before_it_that_can_reads_images(
    worker: ReloadingWorker, tmp_path: Path, logged: Callable[[], str]
) -> None:
    for version in ("standin-2", "standin-3"):
        worker.promote(worker.add(another(tmp_path, version)))
    worker.add(another(tmp_path, "challenger-1"))  # has never served
    for version in ("broken-1", "broken-2"):
        worker.promote(worker.add(unlike_its_reference(tmp_path, version)))
    with closing(begin(worker)) as serving:
        assert serving.version == "standin-3"
    said = logged()
    assert "a former champion cannot be loaded either" in said
    assert "the champion cannot be loaded; its predecessor classifies scans" in said
    assert "broken-2" in said


def test_the_champion_comes_to_work_later_where_it_can(
    worker: ReloadingWorker, tmp_path: Path, monkeypatch: Any
) -> None:
    """As where the disk under its store was full when the worker began."""
    monkeypatch.setattr(model_reloader, "FIRST_RELOAD_DELAY", 0.05)
    models = worker.settings.models
    worker.promote(worker.add(another(tmp_path, "standin-2")))
    eventually(lambda: worker.slot.version == "standin-2")
    full = monkeypatch.context()
    with full as patch:
        patch.setattr(model_cache, "_install", disk_full)
        shutil.rmtree(models / "standin-2")
        serving = begin(worker)
    assert serving.version == "standin-1"
    slot = ModelSlot(serving)
    watching = ModelReloader(worker.database, slot, worker.load)
    eventually(lambda: slot.version == "standin-2")
    watching.close()
    slot.close()


def disk_full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_where_no_model_can_be_loaded_images_wait_for_one(
    tmp_path: Path, tiny_model: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_reloader, "FIRST_RELOAD_DELAY", 0.02)
    monkeypatch.setattr(model_reloader, "LONGEST_MODEL_WAIT", 0.1)
    worker = ReloadingWorker(tmp_path / "data", tiny_model)
    models = worker.settings.models
    shutil.rmtree(models)
    models.write_text("no folder")
    with pytest.raises(ModelError, match="cannot be written to"):
        begin(worker, patient=False)
    with ThreadPoolExecutor(1) as pool:
        beginning = pool.submit(begin, worker)
        before = worker.loads
        eventually(lambda: worker.loads > before + 3)
        assert not beginning.done()
        models.unlink()
        with closing(beginning.result(DEADLINE_SECONDS)) as serving:
            assert serving.version == "standin-1"
        shutil.rmtree(models)
        models.write_text("no folder")
        waiting = pool.submit(begin, worker)
        worker.stop.set()
        with pytest.raises(ShuttingDown):
            waiting.result(DEADLINE_SECONDS)
    worker.close()


def test_a_device_that_is_not_there_is_no_reason_to_wait(worker: ReloadingWorker) -> None:
    def load(version: str | None) -> ServedModel:
        raise SettingsError("TensorFlow does not see gpu:0.")

    with pytest.raises(SettingsError):
        load_initial_model(worker.database, load, worker.stop)


def test_a_model_at_work_that_a_restored_database_does_not_know_is_registered_anew(
    tmp_path: Path, tiny_model: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise no result could be recorded until another model is loaded."""
    monkeypatch.setattr(model_reloader, "CHAMPION_CHECK_SECONDS", 0.01)
    worker = ReloadingWorker(tmp_path / "data", tiny_model)
    worker.promote(worker.add(another(tmp_path, "standin-2")))
    worker.slot.swap(worker.load())
    # as last night's backup has it; and its champion cannot be loaded
    worker.database.write(lambda c: c.execute(text("DELETE FROM promotions WHERE version = 'standin-2'")))
    worker.database.write(lambda c: c.execute(text("DELETE FROM models WHERE version = 'standin-2'")))
    worker.database.write(lambda c: c.execute(text("UPDATE models SET champion = true")))

    def load() -> ServedModel:
        raise ModelError("damaged")

    def register(version: str) -> None:
        model_cache.register_folder(worker.database, ModelFolder.read(worker.settings.models / version), "test")

    watching = ModelReloader(worker.database, worker.slot, load, register)
    eventually(lambda: worker.database.read(lambda c: model_registry.is_registered(c, "standin-2")))
    assert worker.database.read(model_registry.champion_version) == "standin-1"
    assert worker.slot.version == "standin-2"
    watching.close()
    worker.close()


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
            serving.predict(images)

settings, folder = Settings(data_dir=Path(sys.argv[1])), shipped_folder()
post = ModelSlot(load_served_model(folder, settings))
shape = (folder.side, folder.side)
images = [DecodedFile(n, np.full(shape, n, np.uint8), "", 1, 1) for n in range(settings.batch_size)]
read()
bytes_held = [held()]
for _ in range(20):
    post.swap(load_served_model(folder, settings))
    read()
    bytes_held.append(held())
print(json.dumps(bytes_held))
"""


@pytest.mark.slow
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
