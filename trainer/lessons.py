"""What a network is shown: batches of films, in what order and how changed, with what is to be said of them.

Each batch's chance is its own, so that a run can be taken up at any of them.
"""

from collections.abc import Iterator
from itertools import count, islice

import numpy as np
from numpy.typing import NDArray

from pneumowatch.film import Pixels
from trainer.augment import Augmentation, augment, mixed
from trainer.dataset import Examples
from trainer.knobs import Knobs


def lessons(learn: Examples, knobs: Knobs, done: int = 0) -> Iterator[tuple[Pixels, NDArray[np.float32]]]:
    """Films uint8 (batch, side, side, 1) with labels (batch,), for ever, after the first `done` batches."""
    order = islice(shuffled_batches(len(learn), knobs.batch, knobs.seed), done, None)
    for number, chosen in zip(count(done), order, strict=False):
        rng = np.random.default_rng([knobs.seed, 1, number])
        films, labels = learn.pixels[chosen], learn.labels[chosen]
        if knobs.augmented:
            films = augment(films, Augmentation(), rng)
        if knobs.mixup:
            films, labels = mixed(films, labels, knobs.mixup, rng)
        yield films, labels + knobs.smoothing * (0.5 - labels)


def shuffled_batches(films: int, batch: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Indices of `batch` films for ever: all of them in random order, then all of them in another, without a gap."""
    rng = np.random.default_rng(seed)
    waiting = rng.permutation(films)
    while True:
        while len(waiting) < batch:
            waiting = np.concatenate([waiting, rng.permutation(films)])
        yield waiting[:batch]
        waiting = waiting[batch:]
