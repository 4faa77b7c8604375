"""Rescoring by another model: kept images, images still in their folder, and images that are gone."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select
from support.tiny_models import SIDE, gated_network, tiny_network, write_model

from db import schema
from db.ledger import registration
from db.ledger.file_version import FileVersion
from db.models import Prediction, Scan
from db.registry import model_cache
from db.session import Database
from pneumowatch.errors import ShuttingDown
from pneumowatch.imaging import image_store, reader
from pneumowatch.model_folder import ModelFolder
from pneumowatch.settings import Settings
from worker.decode import DecoderLimits, DecoderPool
from worker.inference.classifier import Classifier
from worker.inference.serving import load_served_model
from worker.pipeline import ScanProcessor
from worker.rescoring import Rescorer, RescoringCounts

IMAGES = 10


class Archive:
    """An inbox whose images the tiny model has read, of which those that it flagged are kept."""

    def __init__(self, folder: Path, phantoms: Path, first: ModelFolder) -> None:
        self.inbox = folder / "inbox"
        self.inbox.mkdir()
        for path in sorted(phantoms.iterdir())[:IMAGES]:
            shutil.copy(path, self.inbox)
        self.settings = Settings(data_dir=folder, batch_size=4, decoders=1)
        self.database = Database(self.settings.database)
        schema.upgrade(self.database)
        self.models: dict[str, ModelFolder] = {}
        self.know(first)
        self.read(first)

    def know(self, folder: ModelFolder) -> ModelFolder:
        model_cache.register_folder(self.database, folder, "test")
        self.models[folder.version] = folder
        return folder

    def read(self, folder: ModelFolder) -> None:
        files = [
            FileVersion("inbox", path.name.encode(), path.stat().st_size, path.stat().st_mtime_ns)
            for path in sorted(self.inbox.iterdir())
        ]
        self.database.write(lambda c: registration.register_files(c, files, "watcher"))
        decoders = DecoderPool(1, DecoderLimits(2_000_000, 4_000_000, 20))
        serving = load_served_model(folder, self.settings)
        processor = ScanProcessor(self.settings, {"inbox": self.inbox}, self.database, serving, decoders, "worker")
        processor.process(100)
        processor.close()

    def rescore(self, folder: ModelFolder, make_current: bool = False) -> RescoringCounts:
        serving = load_served_model(folder, self.settings)
        work = Rescorer(self.database, self.settings, {"inbox": self.inbox}, serving, "ada")
        try:
            return work.run(make_current, lambda done, of: None)
        finally:
            work.close()
            serving.close()

    def scans(self) -> list[Scan]:
        return list(self.database.read(lambda c: c.execute(select(Scan.__table__).order_by(Scan.id)).all()))  # type: ignore[arg-type]

    def predictions(self, version: str) -> dict[int, float]:
        chosen = select(Prediction.scan_id, Prediction.probability).where(Prediction.model_version == version)
        return {row.scan_id: row.probability for row in self.database.read(lambda c: c.execute(chosen).all())}


@pytest.fixture
def archive(tmp_path: Path, phantoms: Path, tiny_model: ModelFolder) -> Iterator[Archive]:
    made = Archive(tmp_path, phantoms, tiny_model)
    yield made
    made.database.close()


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """A model of the same input size with other results."""
    network = tiny_network()
    kernel, bias = network.layers[-1].get_weights()
    network.layers[-1].set_weights([-kernel, bias])
    folder = tmp_path_factory.mktemp("models") / "other"
    return write_model(folder, network, version="standin-2", threshold={"value": 0.45})


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return write_model(tmp_path_factory.mktemp("models") / "larger", tiny_network(80), 80, version="larger-1")


def test_old_images_are_read_as_if_they_came_today(archive: Archive, other: ModelFolder) -> None:
    before = archive.scans()
    counts = archive.rescore(archive.know(other))
    assert counts == RescoringCounts(IMAGES, 0, IMAGES, 0, 0, 0)
    model = Classifier(other, 1, "cpu")
    found = archive.predictions(other.version)
    for scan in before:
        pixels = reader.read_pixels((archive.inbox / scan.path).read_bytes(), SIDE)
        assert found[scan.id] == pytest.approx(float(model.predict(pixels[None]).probability[0]), abs=1e-5)
    assert archive.scans() == before  # which show what they showed
    assert archive.predictions("standin-1") == {scan.id: scan.probability for scan in before}


def test_again_and_made_current(archive: Archive, other: ModelFolder) -> None:
    first = {scan.id: scan.probability for scan in archive.scans()}
    archive.rescore(archive.know(other))
    counts = archive.rescore(other, make_current=True)
    assert counts == RescoringCounts(IMAGES, IMAGES, 0, 0, 0, IMAGES)
    assert archive.rescore(other, make_current=True) == RescoringCounts(IMAGES, IMAGES, 0, 0, 0, 0)
    found = archive.predictions(other.version)
    for scan in archive.scans():
        assert (scan.model_version, scan.threshold, scan.probability) == ("standin-2", 0.45, found[scan.id])
        assert scan.flagged == (scan.probability >= 0.45)
    assert archive.predictions("standin-1") == first


def test_of_images_that_are_gone_the_kept_ones_are_read(archive: Archive, other: ModelFolder) -> None:
    sample, *_ = archive.scans()
    pixels = reader.read_pixels((archive.inbox / sample.path).read_bytes(), SIDE)
    image_store.store_image(archive.settings.data_dir, sample.sha256, pixels)
    for path in archive.inbox.iterdir():
        path.write_bytes(b"something else stands here now")
    flagged = {scan.id for scan in archive.scans() if scan.flagged}
    held = {
        scan.id
        for scan in archive.scans()
        if image_store.load_image(archive.settings.data_dir, scan.sha256) is not None
    }
    assert held == flagged | {sample.id}
    counts = archive.rescore(archive.know(other))
    assert (counts.rescored, counts.left_out) == (len(held), IMAGES - len(held))
    assert set(archive.predictions(other.version)) == held


def test_a_kept_image_of_another_size_is_no_image_of_this_models(archive: Archive, larger: ModelFolder) -> None:
    for scan in archive.scans():
        image_store.store_image(
            archive.settings.data_dir, scan.sha256, reader.read_pixels((archive.inbox / scan.path).read_bytes(), SIDE)
        )
    gone = archive.scans()[0]
    (archive.inbox / gone.path).unlink()
    counts = archive.rescore(archive.know(larger))
    assert (counts.rescored, counts.left_out) == (IMAGES - 1, 1)
    model = Classifier(larger, 1, "cpu")
    found = archive.predictions(larger.version)
    for scan in archive.scans()[1:]:
        pixels = reader.read_pixels((archive.inbox / scan.path).read_bytes(), 80)
        assert found[scan.id] == pytest.approx(float(model.predict(pixels[None]).probability[0]), abs=1e-5)


def test_what_the_model_takes_for_no_chest_image_keeps_its_result(archive: Archive, tmp_path: Path) -> None:
    network = gated_network()
    strange = network.get_layer("strange")
    strange.set_weights([strange.get_weights()[0] * 100])
    folder = write_model(tmp_path / "suspicious", network, version="suspicious-1")
    before = archive.scans()
    counts = archive.rescore(archive.know(folder), make_current=True)
    assert counts == RescoringCounts(IMAGES, 0, 0, IMAGES, 0, 0)
    assert archive.scans() == before


def test_a_rescoring_that_is_stopped_goes_on_where_it_stopped(archive: Archive, other: ModelFolder) -> None:
    serving = load_served_model(archive.know(other), archive.settings)
    work = Rescorer(archive.database, archive.settings, {"inbox": archive.inbox}, serving, "ada")

    def stop(done: int, of: int) -> None:
        assert of == IMAGES
        if done >= 4:
            raise ShuttingDown("Ctrl-C")

    with pytest.raises(ShuttingDown):
        work.run(False, stop)
    work.close()
    serving.close()
    assert len(archive.predictions(other.version)) == 4
    counts = archive.rescore(other)
    assert counts == RescoringCounts(IMAGES, 4, IMAGES - 4, 0, 0, 0)


def test_an_image_that_the_new_model_flags_is_kept_with_its_map(archive: Archive, gated_model: ModelFolder) -> None:
    shutil.rmtree(archive.settings.data_dir / image_store.IMAGES_FOLDER, ignore_errors=True)
    archive.rescore(archive.know(gated_model), make_current=True)
    flagged = {scan.sha256 for scan in archive.scans() if scan.flagged}
    assert 0 < len(flagged) < IMAGES
    folder = archive.settings.data_dir / image_store.IMAGES_FOLDER
    assert {path.name for path in folder.iterdir()} == {f"{sha}.png" for sha in flagged}
    assert all(image_store.load_activation_map(archive.settings.data_dir, sha) is not None for sha in flagged)
