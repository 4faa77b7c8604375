"""Distillation: a small network learns the outputs of strong ones on the same, strongly changed images.

The teachers see exactly the view that the student sees, and label it with their joint output (Hinton et al., 2015;
Beyer et al., 2022, "a good teacher is patient and consistent"). That output replaces the label, so images without a
label would do.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pneumowatch.imaging.reader import Pixels
from pneumowatch.model_folder import ModelFolder
from trainer import networks
from trainer.augment import Augmentation, augment
from trainer.dataset import Examples

VIEW_BATCH: Final = 64  # views; affects speed and memory only
# As the images of one hospital differ among themselves
WEAK_AUGMENTATION: Final = Augmentation(
    degrees=4, zoom=0.05, aspect=0.04, shear=0.02, shift=0.03, gamma=0.15, contrast=0.1, brightness=0.05,
    softness=0.4, detail=0.15, shading=0.1, noise=0.01, borders=0.05, patches=0, compression=0.4,
)  # fmt: skip
BLENDED_SHARE: Final = 0.5  # share of the other views that blend two images, to teach what lies between them
TEACHER_EPSILON: Final = 1e-4  # teachers' probabilities are clipped to this distance from 0 and 1


@dataclass(frozen=True, eq=False)
class Teacher:
    """A trained network and how to ask it: uint8 images (n, side, side, 1) to probabilities (n,)."""

    side: int
    predict: Callable[[Pixels], NDArray[np.floating[Any]]]


def load_teacher(folder: ModelFolder) -> Teacher:
    """Load a model folder as a teacher. Raises ModelError where it is damaged."""
    model = networks.load_inference_model(folder)

    def predict(images: Pixels) -> NDArray[np.floating[Any]]:
        predicted = model.predict_on_batch(images)
        return np.asarray(predicted["probability"] if isinstance(predicted, dict) else predicted)[:, 0]

    return Teacher(folder.side, predict)


def labelled_views(
    images: Examples,
    teachers: Sequence[Teacher],
    side: int,
    rounds: int,
    seed: int,
    weak_share: float = 1 / 3,
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> Examples:
    """Make `rounds` views of each image, reduced to the student's `side` and labelled with the teachers' mean logit.

    Args:
        images: at the largest side of any teacher; their labels are ignored.
        weak_share: share of the views that are changed little; the others are changed much.
        on_progress: called with the number of views done, and of all views.
    """
    rng = np.random.default_rng([seed, 2])
    total = rounds * len(images)
    seen = np.empty((total, side, side, 1), np.uint8)
    predicted = np.empty(total, np.float32)
    order = np.concatenate([rng.permutation(len(images)) for _ in range(rounds)])
    for start in range(0, total, VIEW_BATCH):
        chosen = order[start : start + VIEW_BATCH]
        batch = _augmented(images.pixels[chosen], weak_share, rng)
        seen[start : start + len(chosen)] = resized_images(batch, side)
        predicted[start : start + len(chosen)] = ensemble_probabilities(
            [one.predict(resized_images(batch, one.side)) for one in teachers]
        )
        on_progress(start + len(chosen), total)
    return Examples(seen, predicted, images.patients[order])


def ensemble_probabilities(predicted: Sequence[NDArray[np.floating[Any]]]) -> NDArray[np.float64]:
    """Return the probability of the mean logit: a teacher that is sure weighs more than one that is not."""
    clipped = np.clip(np.asarray(predicted, np.float64), TEACHER_EPSILON, 1 - TEACHER_EPSILON)
    logit = np.log(clipped / (1 - clipped)).mean(axis=0)
    return np.asarray(1 / (1 + np.exp(-logit)))


def resized_images(images: Pixels, side: int) -> Pixels:
    """Resize images (n, side, side, 1) as `pneumowatch.imaging.reader` does."""
    if images.shape[1] == side:
        return images
    small = [Image.fromarray(image[..., 0]).resize((side, side), Image.Resampling.BILINEAR) for image in images]
    return np.stack([np.asarray(image) for image in small])[..., np.newaxis]


def _augmented(images: Pixels, weak_share: float, rng: np.random.Generator) -> Pixels:
    if rng.random() < weak_share:
        return augment(images, WEAK_AUGMENTATION, rng)
    return _blended(augment(images, Augmentation(), rng), rng)


def _blended(images: Pixels, rng: np.random.Generator) -> Pixels:
    weight = rng.uniform(0, 0.5, len(images)) * (rng.random(len(images)) < BLENDED_SHARE)
    wide = weight.astype(np.float32)[:, np.newaxis, np.newaxis, np.newaxis]
    return np.round(images * (1 - wide) + images[rng.permutation(len(images))] * wide).astype(np.uint8)
