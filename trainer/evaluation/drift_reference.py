"""Distributions of a model's outputs on validation images: `db.health.drift` compares a source's images with them."""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pneumowatch.errors import TrainingError
from pneumowatch.imaging.reader import Pixels
from pneumowatch.model_folder import CARD, ModelFolder
from pneumowatch.settings import Settings
from trainer import dataset, networks
from trainer.dataset import PatientIdRule

REFERENCE_BINS: Final = 10
DIGITS: Final = 9  # float32 has no more
REFERENCE_BATCH: Final = 64  # images; affects speed only


def build_reference(served: Any, images: Pixels) -> dict[str, Any]:
    """Build the card's reference: {images, probability, gate_score, brightness}.

    All but the first are `quantile_bins`; gate_score is None where the network has no gate.

    Args:
        served: a `keras.Model` as `gate.gated_inference_model` gives it.
        images: uint8 (n, side, side, 1) of validation patients, at least one.
    """
    predicted = served.predict(images, batch_size=REFERENCE_BATCH, verbose=0)
    outputs = predicted if isinstance(predicted, dict) else {"probability": predicted}
    gate_score = outputs.get("gate_score")
    return {
        "images": len(images),
        "probability": quantile_bins(outputs["probability"][:, 0]),
        "gate_score": None if gate_score is None else quantile_bins(gate_score[:, 0]),
        "brightness": quantile_bins(images.mean(axis=(1, 2, 3))),
    }


def write_reference(folder: Path, data: Path, full_size_folder: Path | None, settings: Settings) -> int:
    """Write the reference into the card of a model that has none. Returns the number of images.

    Args:
        data: the images that the model was trained on.
        full_size_folder: a second such folder, of full-size images.
        settings: its patient key identifies the patients of DICOM headers.

    Raises:
        ModelError: the folder is damaged.
        TrainingError: the images cannot be used, or the card cannot be written.
    """
    model = ModelFolder.read(folder)
    model.verify()
    patient_rule = PatientIdRule.from_card(model.card, settings)
    images = dataset.read_dataset(data, model.side, patient_rule)
    validation = (
        images + dataset.read_dataset(full_size_folder, model.side, patient_rule) if full_size_folder else images
    ).examples("validation")
    if not len(validation.labels):
        raise TrainingError("There is no image of a validation patient; see `pneumowatch train --help`.")
    card = model.card | {"reference": build_reference(networks.load_inference_model(model), validation.pixels)}
    try:
        (folder / CARD).write_text(json.dumps(card, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
    except OSError as error:
        raise TrainingError(f"{folder / CARD} cannot be written: {error.strerror}.") from error
    return len(validation.labels)


def quantile_bins(values: NDArray[Any]) -> dict[str, list[float]]:
    """Return {edges, shares}: bins with a tenth of the values each, fewer where many are equal; none is empty."""
    values = np.round(values.astype(np.float64), DIGITS)
    edges = np.unique(np.quantile(values, np.arange(1, REFERENCE_BINS) / REFERENCE_BINS, method="higher"))
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    if not counts[0]:  # no value lies below the first edge: it separates nothing
        edges, counts = edges[1:], counts[1:]
    return {"edges": edges.tolist(), "shares": (counts / len(values)).round(DIGITS).tolist()}
