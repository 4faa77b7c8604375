"""The data of one nightly retraining: base dataset and verdicts, to train and to evaluate a challenger."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from pneumowatch.errors import TrainingError
from trainer.dataset import CLASSES, Dataset, Examples, LabelledImage
from trainer.nightly import verdict_labels
from trainer.nightly.verdict_labels import VerdictDataset

VERDICT_SHARE: Final = 0.25  # share of training images that come from verdicts, where there are enough of them
MAX_REPEATS: Final = 8  # times that one of those is used for each use of a base image


@dataclass(frozen=True, eq=False)
class NightlyData:
    """Base dataset and verdicts, combined and split.

    The frozen images are split by the base dataset alone, so they are the same every night. Images to train on are
    split by all images together: a judged image with the same picture as a held-out one is held out as well.
    """

    base: Dataset
    verdict_data: VerdictDataset
    combined: Dataset
    newer: Dataset  # images judged since the last promotion
    validation: Examples  # frozen
    test: Examples  # frozen
    held_out: Examples  # newer images of test and validation patients: none of them chooses a threshold

    @classmethod
    def combine(cls, base: Dataset, verdict_data: VerdictDataset, promoted: int) -> "NightlyData":
        """Combine the base dataset with the verdicts.

        `promoted` is the newest review that the last promotion knew.

        Raises TrainingError where no threshold could be chosen on the base dataset.
        """
        combined, newer = base + verdict_data.dataset, verdict_data.judged_after(promoted)
        held_out = concatenate_examples(*(combined.examples(split, newer) for split in ("test", "validation")))
        validation, test = base.examples("validation"), base.examples("test")
        if not validation.labels.any():
            raise TrainingError("The base dataset has no image with pneumonia of a validation patient; add images.")
        return cls(base, verdict_data, combined, newer, validation, test, held_out)

    def training_examples(self) -> Examples:
        """Return the images of training patients, those of verdicts several times."""
        base, verdict_examples = (
            self.combined.examples("train", part) for part in (self.base, self.verdict_data.dataset)
        )
        return concatenate_examples(
            base,
            *[verdict_examples]
            * verdict_labels.oversampling_factor(len(verdict_examples), len(base), VERDICT_SHARE, MAX_REPEATS),
        )

    def evaluation_sets(self) -> dict[str, Examples]:
        """Return the sets whose metrics the challenger's card states."""
        on = {"validation": self.validation, "test": self.test, "verdicts": self.held_out}
        return {name: examples for name, examples in on.items() if len(examples)}

    def counts(self) -> dict[str, Any]:
        """Count the images of verdicts, for the attempt's row."""
        labels = [image.label for image in self.verdict_data.dataset.images]
        of_class = {name: labels.count(label) for label, name in enumerate(CLASSES)}
        return {**of_class, "left_out": self.verdict_data.left_out}


def concatenate_examples(*parts: Examples) -> Examples:
    pixels, labels, patients = (
        np.concatenate([getattr(part, field) for part in parts]) for field in ("pixels", "labels", "patients")
    )
    return Examples(pixels, labels, patients)


def as_examples(images: tuple[LabelledImage, ...], side: int) -> Examples:
    """Return all these images as arrays, whatever their split."""
    pixels = np.array([image.pixels for image in images], np.uint8).reshape(-1, side, side, 1)
    labels = np.array([image.label for image in images], np.float32)
    return Examples(pixels, labels, np.array([image.patient for image in images], np.str_))
