"""Write a model folder, completely or not at all."""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np

from pneumowatch.errors import TrainingError
from pneumowatch.imaging.phantom import draw_phantom
from pneumowatch.model_folder import CARD, REFERENCE, WEIGHTS, ModelFolder
from trainer.evaluation import reports
from trainer.student import predict_probabilities

TRAINING_PAGE: Final = "training.html"  # the report on the run's epochs
REFERENCE_IMAGES: Final = 16  # phantoms, half of them with pneumonia: a model folder holds no patient's image


def write_model(out: Path, model: Any, card: dict[str, Any]) -> ModelFolder:
    """Write `out`/<version> from an uncompiled model and a card that lacks only `version` and `sha256`.

    The folder appears under its name once it is complete and verified.

    Raises:
        TrainingError: `out` cannot be written.
        ModelError: the network has a layer that is not allowed in a model.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=out))
        try:
            return _move_into_place(_fill(unfinished, model, card), out)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        raise TrainingError(f"The model cannot be written to {out}: {error.strerror}.") from error


def reference_images(side: int) -> np.ndarray:
    """Draw the reference inputs, uint8 (16, side, side, 1).

    A model's stored outputs for them verify it on every machine that loads it.
    """
    drawn = [
        draw_phantom(seed, pneumonia=seed % 2 == 0, width=side, height=side) for seed in range(1, REFERENCE_IMAGES + 1)
    ]
    return np.array(drawn, np.uint8)[..., np.newaxis]


def _fill(folder: Path, model: Any, card: dict[str, Any]) -> ModelFolder:
    model.save(folder / WEIGHTS)
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    images = reference_images(card["input"]["side"])
    np.savez_compressed(
        folder / REFERENCE, images=images, probabilities=predict_probabilities(model, images).astype(np.float32)
    )
    card = {"version": f"{card['network']}-{digest[:12]}", "sha256": digest, **card}
    (folder / CARD).write_text(json.dumps(card, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
    if card["history"]:
        (folder / TRAINING_PAGE).write_text(reports.training_page(card), "utf-8")
    written = ModelFolder.read(folder)
    written.verify()
    return written


def _move_into_place(written: ModelFolder, out: Path) -> ModelFolder:
    written.path.chmod(0o755)  # mkdtemp's folder is private to its owner, and workers may run as another user
    return ModelFolder.read(written.path.rename(out / written.version))
