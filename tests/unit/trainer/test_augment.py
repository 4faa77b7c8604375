from dataclasses import replace

import numpy as np
import pytest
from support.phantoms import phantoms

from trainer.augment import Augmentation, augment, mixup

SIDE = 40
NOTHING = Augmentation(0, 0, 0, 0, 0, False, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


def images(count: int = 12) -> np.ndarray:
    return phantoms(1, count, SIDE)


def augmented(how: Augmentation, seed: int = 1) -> np.ndarray:
    return augment(images(), how, np.random.default_rng(seed))


def test_images_stay_images_and_each_is_changed() -> None:
    changed = augmented(Augmentation())
    assert changed.shape == images().shape
    assert changed.dtype == np.uint8
    assert all((one != other).mean() > 0.5 for one, other in zip(changed, images(), strict=True))


def test_the_same_chance_gives_the_same_images() -> None:
    np.testing.assert_array_equal(augmented(Augmentation()), augmented(Augmentation()))
    assert (augmented(Augmentation()) != augmented(Augmentation(), seed=2)).any()


def test_nothing_changes_nothing() -> None:
    assert np.abs(augmented(NOTHING).astype(int) - images()).max() <= 1


@pytest.mark.parametrize(
    ("knob", "value"),
    [
        ("degrees", 45.0), ("zoom", 0.5), ("shift", 0.3), ("gamma", 1.5), ("contrast", 1.0), ("brightness", 0.5),
        ("detail", 2.0), ("shading", 1.0), ("noise", 0.3), ("patches", 0.9), ("borders", 0.5), ("compression", 1.0),
    ],
)  # fmt: skip
def test_each_option_does_something(knob: str, value: float) -> None:
    without = augmented(NOTHING, seed=4).astype(int)
    with_it = augmented(replace(NOTHING, **{knob: value}), seed=4).astype(int)
    assert np.abs(with_it - without).mean() > 1


def test_a_flip_is_exact() -> None:
    flipped = augmented(replace(NOTHING, flip=True), seed=3)
    straight = images()
    mirrored = [np.abs(one.astype(int) - other[:, ::-1]).mean() for one, other in zip(flipped, straight, strict=True)]
    upright = [np.abs(one.astype(int) - other).mean() for one, other in zip(flipped, straight, strict=True)]
    assert any(a < b for a, b in zip(mirrored, upright, strict=True))
    assert any(b < a for a, b in zip(mirrored, upright, strict=True))


def test_mixed_images_have_mixed_labels() -> None:
    black, white = np.zeros((4, 8, 8, 1), np.uint8), np.full((4, 8, 8, 1), 255, np.uint8)
    both, labels = np.concatenate([black, white]), np.array([0] * 4 + [1] * 4, np.float32)
    blend, said = mixup(both, labels, 1.0, np.random.default_rng(1))
    np.testing.assert_allclose(blend.mean(axis=(1, 2, 3)) / 255, said, atol=0.01)
    assert ((said > 0.02) & (said < 0.98)).any()
    assert (said[:4] <= 0.5).all()
    assert (said[4:] >= 0.5).all()
