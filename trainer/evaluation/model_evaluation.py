"""Evaluate one model on labelled images: its output for each image, and its metrics."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pneumowatch.errors import TrainingError
from pneumowatch.imaging.reader import Pixels
from pneumowatch.model_folder import ModelFolder
from trainer.dataset import CLASSES, Dataset, LabelledImage
from trainer.evaluation import metrics
from trainer.evaluation.metrics import Estimate

SPLIT_MISMATCH_NOTE: Final = (
    "Patients are identified by another rule than when this model was trained (another pattern or patient key). It may "
    "have been trained on these {split} patients, so the figures do not show how it performs on others."
)


@dataclass(frozen=True, eq=False)
class ScoredImage:
    """An image, its name relative to the data folder, and the model's probability of pneumonia."""

    image: LabelledImage
    name: str
    probability: float
    flagged: bool

    @property
    def label_name(self) -> str:
        return CLASSES[self.image.label]

    @property
    def correct(self) -> bool:
        return self.flagged == bool(self.image.label)

    @property
    def error(self) -> float:
        """How far the probability is from the truth, 0 to 1."""
        return abs(self.probability - self.image.label)

    def as_dict(self) -> dict[str, Any]:
        return {"path": self.name, "label": self.label_name, "probability": self.probability, "flagged": self.flagged}


@dataclass(frozen=True, eq=False)
class ModelEvaluation:
    version: str
    threshold: float
    split: str
    fingerprint: str  # of all images of the folder
    scored_images: tuple[ScoredImage, ...]
    left_out: int
    split_mismatch: bool = False  # patients were identified by another rule when the model was trained

    @cached_property
    def labels(self) -> NDArray[np.float32]:
        return np.array([one.image.label for one in self.scored_images], np.float32)

    @cached_property
    def probabilities(self) -> NDArray[np.float32]:
        return np.array([one.probability for one in self.scored_images], np.float32)

    @cached_property
    def patients(self) -> NDArray[np.str_]:
        return np.array([one.image.patient for one in self.scored_images], np.str_)

    @cached_property
    def estimates(self) -> dict[str, Estimate]:
        return metrics.estimate_metrics(self.labels, self.probabilities, self.patients, self.threshold)

    @cached_property
    def confusion(self) -> dict[str, int]:
        return metrics.confusion_counts(self.labels, self.probabilities, self.threshold)

    @cached_property
    def misclassified(self) -> list[ScoredImage]:
        """Missed and falsely flagged images, the worst first."""
        return sorted((one for one in self.scored_images if not one.correct), key=lambda one: -one.error)

    @property
    def notes(self) -> list[str]:
        """What a reader of the figures must know."""
        notes = [SPLIT_MISMATCH_NOTE.format(split=self.split)] if self.split_mismatch else []
        for label, name in enumerate(CLASSES):
            if label not in self.labels:
                empty = ", ".join(key.replace("_", " ") for key, of in self.estimates.items() if math.isnan(of.value))
                notes.append(f"There is no image of {name} among them, so these measures are undefined: {empty}.")
        if self.left_out:
            notes.append(f"{self.left_out} files of the folder could not be read and are left out.")
        return notes

    @property
    def summary(self) -> str:
        images, patients = len(self.scored_images), len(set(self.patients.tolist()))
        of = "of all patients" if self.split == "all" else f"of {self.split} patients"
        return f"{images} images of {patients} patients ({of}); flagged at {self.threshold:.3f} and above."

    def as_dict(self) -> dict[str, Any]:
        """Return the evaluation for JSON."""
        return {
            "model_version": self.version,
            "threshold": self.threshold,
            "data": {
                "split": self.split,
                "images": len(self.scored_images),
                "patients": len(set(self.patients.tolist())),
                "classes": {name: int((self.labels == label).sum()) for label, name in enumerate(CLASSES)},
                "left_out": self.left_out,
                "fingerprint": self.fingerprint,
            },
            "measures": {name: _as_dict(estimate) for name, estimate in self.estimates.items()},
            "confusion": self.confusion,
            "notes": self.notes,
            "images": [one.as_dict() for one in self.scored_images],
        }


def evaluate_model(
    model: ModelFolder, dataset: Dataset, folder: Path, split: str, predict: Callable[[Pixels], NDArray[np.float32]]
) -> ModelEvaluation:
    """Score the images of a split, or of `all` patients, at the model's own threshold.

    Args:
        folder: the images' names are relative to it.
        predict: uint8 (n, side, side) to probabilities (n,).

    Raises TrainingError where the split has no image.
    """
    chosen = dataset.in_split(split)
    if not chosen:
        raise TrainingError(
            f"None of the {len(dataset.images)} images is of a {split} patient; --split all evaluates on all of them."
        )
    probability = predict(np.stack([image.pixels for image in chosen])).tolist()
    scored_images = tuple(
        ScoredImage(image, _name(image, folder), value, value >= model.threshold)
        for image, value in zip(chosen, probability, strict=True)
    )
    split_mismatch = split != "all" and dataset.split_mismatch(model.card)
    return ModelEvaluation(
        model.version, model.threshold, split, dataset.fingerprint, scored_images, len(dataset.left_out), split_mismatch
    )


def compare_evaluations(one: ModelEvaluation, other: ModelEvaluation) -> dict[str, dict[str, float | None]]:
    """Compute each measure of the first minus that of the second.

    Raises TrainingError where they did not read the same images.
    """
    if [image.name for image in one.scored_images] != [image.name for image in other.scored_images]:
        raise TrainingError("The folder changed while it was read for the two models; evaluate again.")
    found = metrics.paired_differences(
        one.labels,
        (one.probabilities, other.probabilities),
        one.patients,
        (one.threshold, other.threshold),
    )
    return {name: _as_dict(estimate) for name, estimate in found.items()}


def _name(image: LabelledImage, folder: Path) -> str:
    name = image.path.relative_to(folder) if image.path else Path(image.sha256)
    return bytes(name).decode("utf-8", "backslashreplace")


def _as_dict(estimate: Estimate) -> dict[str, float | None]:
    return {key: None if math.isnan(value) else round(value, 6) for key, value in asdict(estimate).items()}
