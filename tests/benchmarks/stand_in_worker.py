"""Run a worker with stub decoders and a stub classifier, which leaves queue, claims and outcomes.

    python tests/benchmarks/stand_in_worker.py SECONDS

SECONDS is how long a predict waits, as it would for a busy GPU. All other settings come from the environment.
"""

import hashlib
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from db.registry import model_registry
from db.session import Database
from pneumowatch import logs, settings
from pneumowatch.imaging.reader import Pixels
from pneumowatch.model_folder import ModelFolder
from pneumowatch.queue import component_name, make_celery_app
from worker.decode import DecodedFile, DecodeRequest
from worker.inference.model_output import ModelOutput
from worker.inference.serving import ServedModel
from worker.pipeline import ScanProcessor
from worker.tasks import register_task, run_worker

VERSION = "stand-in"
SIZE, MTIME_NS = 1, 1  # of every file, as registered; the worker compares them
SIDE = 150


class StandInDecoders:
    """Give each scan the same black image and its own SHA-256, at no cost."""

    _black = np.zeros((SIDE, SIDE), np.uint8)

    def decode(self, requests: Sequence[DecodeRequest], side: int) -> list[DecodedFile]:
        return [DecodedFile(one.scan_id, self._black, _sha256(one.scan_id), SIZE, MTIME_NS) for one in requests]

    def close(self) -> None:
        pass


class StandInClassifier:
    """Wait for a while at every batch, and do no work."""

    version, side, threshold = VERSION, SIDE, 0.5

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._gpu = threading.Lock()  # one batch at a time

    def predict(self, images: Pixels) -> ModelOutput:
        with self._gpu:
            time.sleep(self._seconds)  # the time of the GPU
        return ModelOutput.from_probabilities(np.full(len(images), 0.25))


def main() -> None:
    given = settings.load_settings()
    logs.configure(given.log_format)
    stop = threading.Event()
    database, app = Database(given.database, stop), make_celery_app(given)
    classifier = StandInClassifier(float(sys.argv[1]))
    folder = ModelFolder(Path(), {"version": VERSION, "sha256": ""})
    by = f"{component_name('worker')}:{os.getpid()}"
    database.write(lambda connection: model_registry.register_model(connection, folder, b"", by))
    processor = ScanProcessor(
        given, given.inboxes, database, ServedModel(classifier, given.batch_size), StandInDecoders(), by
    )
    register_task(app, processor, given.batch_size)
    logs.get_logger("worker").info("model ready", model=VERSION)
    code = run_worker(app, given, stop)
    processor.close()
    sys.exit(code)


def _sha256(scan_id: int) -> str:
    return hashlib.sha256(scan_id.to_bytes(8, "big")).hexdigest()


if __name__ == "__main__":
    main()
