"""Classifying right here: the worker's reader and model on a few named files, without queue and database."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from db.states import State
from pneumowatch.model import ModelFolder, champion
from pneumowatch.settings import Settings
from worker.classifier import Classifier
from worker.decode import Away, Bounds, Decoded, Errand, Fetched, Undecoded, fetch
from worker.findings import AgeRule, admit_chest


def classify_files(files: list[Path], settings: Settings, model: Path | None) -> list[dict[str, Any]]:
    """One row a file, in their order: path, state, reason, sentence, probability, flagged, threshold, model_version,
    caution."""
    folder = ModelFolder.read(model) if model else champion(settings.models)
    bounds = Bounds(settings.max_bytes, settings.max_pixels, settings.decode_seconds, settings.decode_memory)
    classifier = Classifier(folder, settings.batch_size)
    age_rule = AgeRule(folder.ages, settings.outside_age == "reject")
    rows = []
    for batch in _batches(files, settings.batch_size):
        fetched = [age_rule.admit(_fetch(number, file, folder.side, bounds)) for number, file in enumerate(batch)]
        said = _read([one for one in fetched if isinstance(one, Decoded)], classifier)
        rows += [
            _row(file, *said.get(one.scan_id, (one, None)), folder, age_rule)
            for file, one in zip(batch, fetched, strict=True)
        ]
    return rows


def _read(films: list[Decoded], classifier: Classifier) -> dict[int, tuple[Fetched, float | None]]:
    """{number: the film and its probability; or, where it is no chest film, what is said of it, and None}."""
    if not films:
        return {}
    found = classifier.predict(np.stack([film.pixels for film in films]))
    said: dict[int, tuple[Fetched, float | None]] = {}
    for film, probability, strangeness in zip(films, found.probability, found.strangeness, strict=True):
        admitted = admit_chest(film, float(strangeness))
        said[film.scan_id] = admitted, float(probability) if isinstance(admitted, Decoded) else None
    return said


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


def _batches(files: Iterable[Path], size: int) -> Iterator[list[Path]]:
    files = list(files)
    for start in range(0, len(files), size):
        yield files[start : start + size]
