"""Classify a few named files in this process, with the worker's decoder and model, without queue and database."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from db.states import State
from pneumowatch.imaging import overlay
from pneumowatch.model_folder import ModelFolder, champion_folder
from pneumowatch.settings import Settings
from worker.decision import AgeRule, apply_input_gate
from worker.decode import (
    DecodedFile,
    DecodeFailure,
    DecodeRequest,
    DecodeResult,
    DecoderLimits,
    FileUnavailable,
    read_and_decode,
)
from worker.inference.classifier import Classifier
from worker.inference.gradcam import Explainer
from worker.inference.model_output import FloatArray


def classify_files(
    files: list[Path], settings: Settings, model: Path | None, explain: Path | None = None
) -> list[dict[str, Any]]:
    """Classify files and return one row per file, in their order.

    Keys: path, state, reason, sentence, probability, flagged, threshold, model_version, caution. Where the folder
    `explain` is given, an overlay of the region that moved the model is written there, and `explanation` is its path.

    Raises ModelError where the model cannot be used, or has no map to explain with.
    """
    folder = ModelFolder.read(model) if model else champion_folder(settings.models)
    bounds = DecoderLimits(settings.max_bytes, settings.max_pixels, settings.decode_seconds, settings.decode_memory)
    classifier = Classifier(folder, settings.batch_size)
    explainer = Explainer(folder) if explain else None
    overlays = [explain / name for name in overlay.overlay_names(files)] if explain else []
    age_rule = AgeRule(folder.ages, settings.outside_age == "reject")
    rows = []
    for numbered in _batches(files, settings.batch_size):
        fetched = [age_rule.apply(_decode(number, file, folder.side, bounds)) for number, file in numbered]
        predictions = _predict([one for one in fetched if isinstance(one, DecodedFile)], classifier, explainer)
        for (number, file), one in zip(numbered, fetched, strict=True):
            found, probability, heatmaps = predictions.get(number, (one, None, None))
            row = _row(file, found, probability, folder, age_rule)
            if explain:
                row["explanation"] = _write_overlay(overlays[number], found, heatmaps)
            rows.append(row)
    return rows


def _predict(
    images: list[DecodedFile], classifier: Classifier, explainer: Explainer | None
) -> dict[int, tuple[DecodeResult, float | None, FloatArray | None]]:
    """Return {index: (image, probability, heatmap)}; for an image that the gate rejects (failure, None, None)."""
    if not images:
        return {}
    pixels = np.stack([image.pixels for image in images])
    found = classifier.predict(pixels)
    heatmaps = explainer.heatmaps(pixels, found) if explainer else [None] * len(images)
    predictions: dict[int, tuple[DecodeResult, float | None, FloatArray | None]] = {}
    for image, probability, gate_score, heatmap in zip(
        images, found.probability, found.gate_score, heatmaps, strict=True
    ):
        admitted = apply_input_gate(image, float(gate_score))
        scored = isinstance(admitted, DecodedFile)
        predictions[image.scan_id] = admitted, float(probability) if scored else None, heatmap if scored else None
    return predictions


def _write_overlay(path: Path, image: DecodeResult, heatmaps: FloatArray | None) -> str | None:
    """Write the overlay and return its path; None where there is no image or no heatmap."""
    if heatmaps is None or not isinstance(image, DecodedFile):
        return None
    overlay.write_overlay(path, image.pixels, heatmaps)
    return bytes(path).decode("utf-8", "backslashreplace")


def _decode(number: int, file: Path, side: int, bounds: DecoderLimits) -> DecodeResult:
    real = Path(os.path.realpath(file))  # unlike in a shared folder, a link named by the user is followed
    return read_and_decode([DecodeRequest(number, real.parent, bytes(real).rpartition(b"/")[2])], side, bounds)[0]


def _row(
    file: Path, fetched: DecodeResult, probability: float | None, folder: ModelFolder, age_rule: AgeRule
) -> dict[str, Any]:
    if isinstance(fetched, FileUnavailable):
        fetched = DecodeFailure(fetched.scan_id, "unreadable", "Its folder cannot be opened.")
    failure = fetched if isinstance(fetched, DecodeFailure) else None
    return {
        "path": bytes(file).decode("utf-8", "backslashreplace"),  # as the ledger shows it
        "state": State.REJECTED if probability is None else State.CLASSIFIED,
        "reason": failure.reason if failure else None,
        "sentence": failure.sentence if failure else None,
        "probability": probability,
        "flagged": None if probability is None else probability >= folder.threshold,
        "threshold": folder.threshold,
        "model_version": folder.version,
        "caution": age_rule.caution(fetched.header) if isinstance(fetched, DecodedFile) else None,
    }


def _batches(files: Iterable[Path], size: int) -> Iterator[list[tuple[int, Path]]]:
    numbered = list(enumerate(files))
    for start in range(0, len(numbered), size):
        yield numbered[start : start + size]
