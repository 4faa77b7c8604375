from dataclasses import replace

import numpy as np
import pytest
from support.phantoms import phantoms

from trainer.input_gate import ood_samples
from trainer.input_gate.ood_samples import KINDS, SampleKind

SIDE = 64


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return phantoms(1, 6, SIDE)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_each_kind_gives_pictures_that_differ(kind: SampleKind, images: np.ndarray) -> None:
    drawn = ood_samples.draw_samples(kind, 3, images, seed=1)
    assert drawn.shape == (3, SIDE, SIDE, 1)
    assert drawn.dtype == np.uint8
    assert len({picture.tobytes() for picture in drawn}) > 1  # of six images, one may be drawn twice
    assert all(picture.max() > picture.min() for picture in drawn)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_same_seed_gives_the_same_pictures(kind: SampleKind, images: np.ndarray) -> None:
    once, again, other = (ood_samples.draw_samples(kind, 2, images, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(once, again)
    assert (once != other).any()


def test_each_kind_is_drawn_or_corrupted_and_at_least_eight_classes_are_held_out() -> None:
    assert all((kind.draw is None) != (kind.corrupt is None) for kind in KINDS)
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    assert len({kind.group for kind in KINDS}) >= 8
    assert len({kind.group for kind in KINDS if kind.held_out}) >= 8


def test_the_mixture_for_fitting_holds_no_kind_that_is_held_out(
    images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def marked(kind: SampleKind, gray: float) -> SampleKind:
        return replace(kind, draw=None, corrupt=lambda rng, image: np.full_like(image, gray))

    some = [marked(kind, 0.2 if kind.held_out else 0.8) for kind in KINDS]
    monkeypatch.setattr(ood_samples, "KINDS", tuple(some))
    mixture = ood_samples.draw_mixture(100, images, seed=1)
    assert len(mixture) >= 100
    assert set(np.unique(mixture)) == {204}


def test_corrupted_chest_images_are_what_they_are_called(images: np.ndarray) -> None:
    one = images[:1]
    by_name = {kind.name: kind for kind in KINDS}

    def corrupted(name: str) -> np.ndarray:
        return ood_samples.draw_samples(by_name[name], 1, one, seed=3)[0, :, :, 0].astype(int)

    image = one[0, :, :, 0].astype(int)
    assert is_one_of(corrupted("inverted"), [255 - image, 255 - image[:, ::-1]])
    assert is_one_of(corrupted("upside down"), [image[::-1], image[::-1, ::-1]])
    turned = [np.rot90(image, turns) for turns in (1, 3)]
    assert is_one_of(corrupted("quarter turn"), turned + [one[:, ::-1] for one in turned])
    assert np.abs(np.fft.fft2(corrupted("phases lost"))).mean() > 0


def is_one_of(picture: np.ndarray, candidates: list[np.ndarray]) -> bool:
    return any(np.abs(picture - candidate).max() <= 1 for candidate in candidates)
