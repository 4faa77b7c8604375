"""One model held against labelled films: what it said of each, and how good that is."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pneumowatch.errors import TrainingError
from pneumowatch.film import Pixels
from pneumowatch.model import ModelFolder
from trainer import evaluate
from trainer.dataset import CLASSES, Dataset, LabelledFilm
from trainer.evaluate import Figure

OTHERWISE: Final = (
    "Patients are told apart otherwise than when this model was trained (another pattern or patient key): it may have "
    "learned from these {split} patients, and the figures say nothing of others."
)


@dataclass(frozen=True, eq=False)
class ReadFilm:
    """A film, its name beneath the data folder, and the model's probability of pneumonia."""

    film: LabelledFilm
    name: str
    said: float
    flagged: bool

    @property
    def label_name(self) -> str:
        return CLASSES[self.film.label]

    @property
    def right(self) -> bool:
        return self.flagged == bool(self.film.label)

    @property
    def error(self) -> float:
        """How far the probability is from the truth, 0 to 1."""
        return abs(self.said - self.film.label)

    def plain(self) -> dict[str, Any]:
        return {"path": self.name, "label": self.label_name, "probability": self.said, "flagged": self.flagged}


@dataclass(frozen=True, eq=False)
class Assessment:
    version: str
    threshold: float
    split: str
    fingerprint: str  # of the whole folder's films
    read: tuple[ReadFilm, ...]
    left_out: int
    otherwise: bool = False  # patients were told apart otherwise when the model was trained

    @cached_property
    def labels(self) -> NDArray[np.float32]:
        return np.array([one.film.label for one in self.read], np.float32)

    @cached_property
    def probabilities(self) -> NDArray[np.float32]:
        return np.array([one.said for one in self.read], np.float32)

    @cached_property
    def patients(self) -> NDArray[np.str_]:
        return np.array([one.film.patient for one in self.read], np.str_)

    @cached_property
    def figures(self) -> dict[str, Figure]:
        return evaluate.figures(self.labels, self.probabilities, self.patients, self.threshold)

    @cached_property
    def confusion(self) -> dict[str, int]:
        return evaluate.confusion(self.labels, self.probabilities, self.threshold)

    @cached_property
    def wrong(self) -> list[ReadFilm]:
        """Missed and falsely flagged films, the worst first."""
        return sorted((one for one in self.read if not one.right), key=lambda one: -one.error)

    @property
    def notes(self) -> list[str]:
        """What whoever reads the figures must know."""
        notes = [OTHERWISE.format(split=self.split)] if self.otherwise else []
        for label, name in enumerate(CLASSES):
            if label not in self.labels:
                empty = ", ".join(key.replace("_", " ") for key, of in self.figures.items() if math.isnan(of.value))
                notes.append(f"There is no film of {name} among them, so these measures are undefined: {empty}.")
        if self.left_out:
            notes.append(f"{self.left_out} files of the folder could not be read and are left out.")
        return notes

    @property
    def sentence(self) -> str:
        films, patients = len(self.read), len(set(self.patients.tolist()))
        of = "of all patients" if self.split == "all" else f"of {self.split} patients"
        return f"{films} films of {patients} patients ({of}); flagged at {self.threshold:.3f} and above."

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "model_version": self.version,
            "threshold": self.threshold,
            "data": {
                "split": self.split,
                "films": len(self.read),
                "patients": len(set(self.patients.tolist())),
                "classes": {name: int((self.labels == label).sum()) for label, name in enumerate(CLASSES)},
                "left_out": self.left_out,
                "fingerprint": self.fingerprint,
            },
            "measures": {name: _plain(figure) for name, figure in self.figures.items()},
            "confusion": self.confusion,
            "notes": self.notes,
            "films": [one.plain() for one in self.read],
        }


def assess(
    model: ModelFolder, films: Dataset, folder: Path, split: str, predict: Callable[[Pixels], NDArray[np.float32]]
) -> Assessment:
    """Have the films of a split, or of `all` patients, read at the model's own threshold.

    Args:
        folder: beneath which the films are named.
        predict: uint8 (n, side, side) to probabilities (n,).

    Raises TrainingError where the split has no film.
    """
    chosen = films.of(split)
    if not chosen:
        raise TrainingError(
            f"None of the {len(films.films)} films is of a {split} patient; --split all evaluates on all of them."
        )
    said = predict(np.stack([film.pixels for film in chosen])).tolist()
    read = tuple(
        ReadFilm(film, _name(film, folder), value, value >= model.threshold)
        for film, value in zip(chosen, said, strict=True)
    )
    otherwise = split != "all" and films.split_otherwise(model.card)
    return Assessment(model.version, model.threshold, split, films.fingerprint, read, len(films.left_out), otherwise)


def compare(one: Assessment, other: Assessment) -> dict[str, dict[str, float | None]]:
    """What each measure of the first is above the second's.

    Raises TrainingError where they did not read the same films.
    """
    if [film.name for film in one.read] != [film.name for film in other.read]:
        raise TrainingError("The folder changed while it was read for the two models; evaluate again.")
    found = evaluate.differences(
        one.labels,
        (one.probabilities, other.probabilities),
        one.patients,
        (one.threshold, other.threshold),
    )
    return {name: _plain(figure) for name, figure in found.items()}


def _name(film: LabelledFilm, folder: Path) -> str:
    name = film.path.relative_to(folder) if film.path else Path(film.sha256)
    return bytes(name).decode("utf-8", "backslashreplace")


def _plain(figure: Figure) -> dict[str, float | None]:
    return {key: None if math.isnan(value) else round(value, 6) for key, value in asdict(figure).items()}
