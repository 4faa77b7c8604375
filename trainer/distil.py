"""Distillation: a small network learns what strong ones say of the same films, much changed.

The teachers see the very view that the pupil sees, and say of each what they say together (Hinton et al., 2015; Beyer
et al., 2022, "a good teacher is patient and consistent"). Their word replaces the label, so films without one would do.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pneumowatch.film import Pixels
from pneumowatch.model import ModelFolder
from trainer import networks
from trainer.augment import Augmentation, augment
from trainer.dataset import Examples

BATCH: Final = 64  # views; a matter of speed and memory only
# As the films of one hospital differ among themselves
NEAR: Final = Augmentation(
    degrees=4, zoom=0.05, aspect=0.04, shear=0.02, shift=0.03, gamma=0.15, contrast=0.1, brightness=0.05,
    softness=0.4, detail=0.15, shading=0.1, noise=0.01, borders=0.05, patches=0, compression=0.4,
)  # fmt: skip
BLENDED: Final = 0.5  # share of the other views that are two films in one: what lies between films is taught as well
EDGE: Final = 1e-4  # teachers are never surer than this


@dataclass(frozen=True, eq=False)
class Teacher:
    """A trained network that takes uint8 films (n, side, side, 1), and how it is asked: probabilities (n,)."""

    side: int
    predict: Callable[[Pixels], NDArray[np.floating[Any]]]


def teacher(folder: ModelFolder) -> Teacher:
    """Raises ModelError where the folder is damaged."""
    model = networks.load(folder)

    def predict(films: Pixels) -> NDArray[np.floating[Any]]:
        said = model.predict_on_batch(films)
        return np.asarray(said["probability"] if isinstance(said, dict) else said)[:, 0]

    return Teacher(folder.side, predict)


def views(
    films: Examples,
    teachers: Sequence[Teacher],
    side: int,
    rounds: int,
    seed: int,
    near: float = 1 / 3,
    watch: Callable[[int, int], None] = lambda done, of: None,
) -> Examples:
    """`rounds` views of each film, reduced to the pupil's `side`, labelled with the teachers' mean logit.

    Args:
        films: at the largest side of any teacher; their labels are not looked at.
        near: share of the views that are changed little; the others are changed much.
        watch: called with how many views are done, and of how many.
    """
    rng = np.random.default_rng([seed, 2])
    total = rounds * len(films)
    seen = np.empty((total, side, side, 1), np.uint8)
    said = np.empty(total, np.float32)
    order = np.concatenate([rng.permutation(len(films)) for _ in range(rounds)])
    for start in range(0, total, BATCH):
        chosen = order[start : start + BATCH]
        batch = _changed(films.pixels[chosen], near, rng)
        seen[start : start + len(chosen)] = reduced(batch, side)
        said[start : start + len(chosen)] = together([one.predict(reduced(batch, one.side)) for one in teachers])
        watch(start + len(chosen), total)
    return Examples(seen, said, films.patients[order])


def together(said: Sequence[NDArray[np.floating[Any]]]) -> NDArray[np.float64]:
    """The probability of the mean logit: one that is sure weighs more than one that is not."""
    clipped = np.clip(np.asarray(said, np.float64), EDGE, 1 - EDGE)
    logit = np.log(clipped / (1 - clipped)).mean(axis=0)
    return np.asarray(1 / (1 + np.exp(-logit)))


def reduced(films: Pixels, side: int) -> Pixels:
    """As `pneumowatch.film` reduces, (n, side, side, 1)."""
    if films.shape[1] == side:
        return films
    small = [Image.fromarray(film[..., 0]).resize((side, side), Image.Resampling.BILINEAR) for film in films]
    return np.stack([np.asarray(film) for film in small])[..., np.newaxis]


def _changed(films: Pixels, near: float, rng: np.random.Generator) -> Pixels:
    if rng.random() < near:
        return augment(films, NEAR, rng)
    return _blended(augment(films, Augmentation(), rng), rng)


def _blended(films: Pixels, rng: np.random.Generator) -> Pixels:
    weight = rng.uniform(0, 0.5, len(films)) * (rng.random(len(films)) < BLENDED)
    wide = weight.astype(np.float32)[:, np.newaxis, np.newaxis, np.newaxis]
    return np.round(films * (1 - wide) + films[rng.permutation(len(films))] * wide).astype(np.uint8)
