"""Fixtures for worker tests: a pipeline on a real ledger, with real files, decoding children, and a tiny network."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.worker_harness import BATCH, KEY, SETTLE, WorkerHarness

from db import schema
from db.registry import model_cache
from db.session import Database
from pneumowatch.model_folder import ModelFolder
from pneumowatch.settings import Settings
from worker.decision import AgeRule
from worker.decode import DecoderLimits, DecoderPool
from worker.inference.classifier import Classifier
from worker.inference.serving import ServedModel
from worker.pipeline import ScanProcessor


@pytest.fixture(scope="module")
def classifier(tiny_model: ModelFolder) -> Classifier:
    return Classifier(tiny_model, BATCH, "cpu")


@pytest.fixture(scope="module")
def decoders(classifier: Classifier) -> Iterator[DecoderPool]:
    made = DecoderPool(2, DecoderLimits(2_000_000, 4_000_000, 30.0))
    made.warm()
    yield made
    made.close()


@pytest.fixture
def harness(
    tmp_path: Path, phantoms: Path, tiny_model: ModelFolder, classifier: Classifier, decoders: DecoderPool
) -> Iterator[WorkerHarness]:
    inbox = Path(shutil.copytree(phantoms, tmp_path / "inbox"))
    settings = Settings(data_dir=tmp_path, batch_size=BATCH, settle_seconds=SETTLE)
    database = Database(settings.database, threading.Event())
    schema.upgrade(database)
    model_cache.register_folder(database, tiny_model, "test")
    serving = ServedModel(classifier, BATCH, AgeRule((1, 5)))
    made = ScanProcessor(settings, {"inbox": inbox}, database, serving, decoders, "worker@test:1", KEY)
    yield WorkerHarness(inbox, database, made, serving, settings)
    made._slot.close()
    database.close()
