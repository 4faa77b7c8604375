"""Training batches: images in random order, augmented, with their labels.

Each batch has a random generator of its own, so a run can resume at any batch.
"""

from collections.abc import Iterator
from itertools import count, islice

import numpy as np
from numpy.typing import NDArray

from pneumowatch.imaging.reader import Pixels
from trainer.augment import Augmentation, augment, mixup
from trainer.dataset import Examples
from trainer.hyperparameters import Hyperparameters


def augmented_batches(
    training_set: Examples, hyperparameters: Hyperparameters, first_batch: int = 0
) -> Iterator[tuple[Pixels, NDArray[np.float32]]]:
    """Yield batches without end: images uint8 (batch, side, side, 1) with labels (batch,).

    The first `first_batch` batches are skipped.
    """
    order = islice(
        shuffled_batches(len(training_set), hyperparameters.batch_size, hyperparameters.seed), first_batch, None
    )
    for number, chosen in zip(count(first_batch), order, strict=False):
        rng = np.random.default_rng([hyperparameters.seed, 1, number])
        images, labels = training_set.pixels[chosen], training_set.labels[chosen]
        if hyperparameters.augmented:
            images = augment(images, Augmentation(), rng)
        if hyperparameters.mixup:
            images, labels = mixup(images, labels, hyperparameters.mixup, rng)
        yield images, labels + hyperparameters.label_smoothing * (0.5 - labels)


def shuffled_batches(images: int, batch: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield `batch` image indices at a time, without end: random orders of all images, without a gap between them."""
    rng = np.random.default_rng(seed)
    waiting = rng.permutation(images)
    while True:
        while len(waiting) < batch:
            waiting = np.concatenate([waiting, rng.permutation(images)])
        yield waiting[:batch]
        waiting = waiting[batch:]
