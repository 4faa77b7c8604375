"""What a night learns from, and what its challenger is examined on: the base dataset and the verdicts, put together."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from pneumowatch.errors import TrainingError
from trainer import verdicts
from trainer.dataset import CLASSES, Dataset, Examples, LabelledFilm
from trainer.verdicts import Lessons

SHARE: Final = 0.25  # of all lessons that are films of verdicts, where there are enough of them
AT_MOST: Final = 8  # times that one of those is seen as often as one of the base


@dataclass(frozen=True, eq=False)
class Curriculum:
    """The frozen films are split by the base dataset alone, so they are the same every night. What is learned from is
    split by all films together: where a judged film is the same picture as a held-out one, it is held out as well."""

    base: Dataset
    lessons: Lessons
    together: Dataset
    newer: Dataset  # films judged since the last promotion
    validation: Examples  # frozen
    test: Examples  # frozen
    held_out: Examples  # newer films of held-out patients, in either tenth: no film of a verdict chooses a threshold

    @classmethod
    def of(cls, base: Dataset, lessons: Lessons, promoted: int) -> "Curriculum":
        """Args: `promoted`: the newest review that the last promotion knew.

        Raises TrainingError where no threshold could be chosen on the base dataset.
        """
        together, newer = base + lessons.films, lessons.since(promoted)
        held_out = joined(*(together.examples(split, newer) for split in ("test", "validation")))
        validation, test = base.examples("validation"), base.examples("test")
        if not validation.labels.any():
            raise TrainingError("The base dataset has no film with pneumonia of a validation patient; add films.")
        return cls(base, lessons, together, newer, validation, test, held_out)

    def learned_from(self) -> Examples:
        """Films of training patients, those of verdicts several times."""
        base, taught = (self.together.examples("train", part) for part in (self.base, self.lessons.films))
        return joined(base, *[taught] * verdicts.repeated(len(taught), len(base), SHARE, AT_MOST))

    def judged(self) -> dict[str, Examples]:
        """What the challenger's card tells figures of."""
        on = {"validation": self.validation, "test": self.test, "verdicts": self.held_out}
        return {name: examples for name, examples in on.items() if len(examples)}

    def counts(self) -> dict[str, Any]:
        """Of the verdicts, for the attempt's row."""
        labels = [film.label for film in self.lessons.films.films]
        of_class = {name: labels.count(label) for label, name in enumerate(CLASSES)}
        return {**of_class, "left_out": self.lessons.left_out}


def joined(*parts: Examples) -> Examples:
    pixels, labels, patients = (
        np.concatenate([getattr(part, field) for part in parts]) for field in ("pixels", "labels", "patients")
    )
    return Examples(pixels, labels, patients)


def arrays(films: tuple[LabelledFilm, ...], side: int) -> Examples:
    """Of all these films, whatever their split."""
    pixels = np.array([film.pixels for film in films], np.uint8).reshape(-1, side, side, 1)
    labels = np.array([film.label for film in films], np.float32)
    return Examples(pixels, labels, np.array([film.patient for film in films], np.str_))
