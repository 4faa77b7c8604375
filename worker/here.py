"""Classifying right here: the worker's reader and model on a few named files, without queue and database."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from db.states import State
from pneumowatch import overlay
from pneumowatch.model import ModelFolder, champion
from pneumowatch.settings import Settings
from worker.classifier import Classifier
from worker.decode import Away, Bounds, Decoded, Errand, Fetched, Undecoded, fetch
from worker.findings import AgeRule, admit_chest
from worker.gradcam import Explainer
from worker.readings import Floats


def classify_files(
    files: list[Path], settings: Settings, model: Path | None, explain: Path | None = None
) -> list[dict[str, Any]]:
    """One row a file, in their order: path, state, reason, sentence, probability, flagged, threshold, model_version,
    caution; and explanation, the picture of what moved the model (`overlay`), where a folder for these is given.

    Raises ModelError where the model cannot be used, or explains nothing.
    """
    folder = ModelFolder.read(model) if model else champion(settings.models)
    bounds = Bounds(settings.max_bytes, settings.max_pixels, settings.decode_seconds, settings.decode_memory)
    classifier = Classifier(folder, settings.batch_size)
    explainer = Explainer(folder) if explain else None
    pictures = [explain / name for name in overlay.names(files)] if explain else []
    age_rule = AgeRule(folder.ages, settings.outside_age == "reject")
    rows = []
    for numbered in _batches(files, settings.batch_size):
        fetched = [age_rule.admit(_fetch(number, file, folder.side, bounds)) for number, file in numbered]
        said = _read([one for one in fetched if isinstance(one, Decoded)], classifier, explainer)
        for (number, file), one in zip(numbered, fetched, strict=True):
            found, probability, heat = said.get(number, (one, None, None))
            row = _row(file, found, probability, folder, age_rule)
            if explain:
                row["explanation"] = _picture(pictures[number], found, heat)
            rows.append(row)
    return rows


def _read(
    films: list[Decoded], classifier: Classifier, explainer: Explainer | None
) -> dict[int, tuple[Fetched, float | None, Floats | None]]:
    """{number: the film, its probability and its heat; or, where it is no chest film, what is said of it, and None}."""
    if not films:
        return {}
    pixels = np.stack([film.pixels for film in films])
    found = classifier.predict(pixels)
    heat = explainer.heat(pixels, found) if explainer else [None] * len(films)
    said: dict[int, tuple[Fetched, float | None, Floats | None]] = {}
    for film, probability, strangeness, its in zip(films, found.probability, found.strangeness, heat, strict=True):
        admitted = admit_chest(film, float(strangeness))
        scored = isinstance(admitted, Decoded)
        said[film.scan_id] = admitted, float(probability) if scored else None, its if scored else None
    return said


def _picture(path: Path, film: Fetched, heat: Floats | None) -> str | None:
    """Where the picture lies; None where there is nothing to show."""
    if heat is None or not isinstance(film, Decoded):
        return None
    overlay.write(path, film.pixels, heat)
    return bytes(path).decode("utf-8", "backslashreplace")


def _fetch(number: int, file: Path, side: int, bounds: Bounds) -> Fetched:
    real = Path(os.path.realpath(file))  # unlike in a shared folder, whoever named a link meant it
    return fetch([Errand(number, real.parent, bytes(real).rpartition(b"/")[2])], side, bounds)[0]


def _row(
    file: Path, fetched: Fetched, probability: float | None, folder: ModelFolder, age_rule: AgeRule
) -> dict[str, Any]:
    if isinstance(fetched, Away):
        fetched = Undecoded(fetched.scan_id, "unreadable", "Its folder cannot be opened.")
    undecoded = fetched if isinstance(fetched, Undecoded) else None
    return {
        "path": bytes(file).decode("utf-8", "backslashreplace"),  # as the ledger shows it
        "state": State.REJECTED if probability is None else State.CLASSIFIED,
        "reason": undecoded.reason if undecoded else None,
        "sentence": undecoded.sentence if undecoded else None,
        "probability": probability,
        "flagged": None if probability is None else probability >= folder.threshold,
        "threshold": folder.threshold,
        "model_version": folder.version,
        "caution": age_rule.caution(fetched.header) if isinstance(fetched, Decoded) else None,
    }


def _batches(files: Iterable[Path], size: int) -> Iterator[list[tuple[int, Path]]]:
    numbered = list(enumerate(files))
    for start in range(0, len(numbered), size):
        yield numbered[start : start + size]
