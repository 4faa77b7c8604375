import io

import numpy as np
from PIL import Image
from support.phantoms import phantom, phantoms

from pneumowatch.imaging.reader import read_image
from trainer import distillation
from trainer.dataset import Examples
from trainer.distillation import Teacher

SIDE, SMALL = 48, 32


def images(count: int = 6) -> Examples:
    pixels = phantoms(0, count, SIDE)
    return Examples(pixels, np.zeros(count, np.float32), np.array([f"p{number}" for number in range(count)]))


def brightness(seen: np.ndarray) -> np.ndarray:
    return seen.mean(axis=(1, 2, 3)) / 255


def test_teachers_label_the_very_views_that_the_student_gets() -> None:
    taught = distillation.labelled_views(images(), [Teacher(SIDE, brightness)], SIDE, rounds=3, seed=1)
    assert taught.pixels.shape == (18, SIDE, SIDE, 1)
    assert taught.pixels.dtype == np.uint8
    np.testing.assert_allclose(taught.labels, brightness(taught.pixels), atol=1e-4)
    assert sorted(taught.patients) == sorted([f"p{number}" for number in range(6)] * 3)


def test_each_teacher_gets_its_size_and_the_student_its_own() -> None:
    sides: list[int] = []

    def predict(seen: np.ndarray) -> np.ndarray:
        sides.append(seen.shape[1])
        return brightness(seen)

    taught = distillation.labelled_views(
        images(), [Teacher(SIDE, predict), Teacher(40, predict)], SMALL, rounds=1, seed=1
    )
    assert set(sides) == {SIDE, 40}
    assert taught.pixels.shape == (6, SMALL, SMALL, 1)


def test_the_same_seed_gives_the_same_views() -> None:
    first, second, other = (
        distillation.labelled_views(images(), [Teacher(SIDE, brightness)], SMALL, 1, seed) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.pixels, second.pixels)
    assert (first.pixels != other.pixels).any()


def test_together_is_the_mean_logit_and_never_quite_sure() -> None:
    said = distillation.ensemble_probabilities([np.array([0.5, 1.0, 0.2]), np.array([0.5, 1.0, 0.8])])
    np.testing.assert_allclose(said, [0.5, 1 - distillation.TEACHER_EPSILON, 0.5])


def test_images_are_reduced_as_the_reader_does() -> None:
    image = phantom(1, True, SIDE, SIDE)
    expected = read_image(_png(image), SMALL).pixels
    np.testing.assert_array_equal(distillation.resized_images(image[None, ..., None], SMALL)[0, ..., 0], expected)


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    distillation.labelled_views(
        images(), [Teacher(SIDE, brightness)], SMALL, 1, 1, on_progress=lambda *at: told.append(at)
    )
    assert told[-1] == (6, 6)


def _png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def test_near_views_stay_near() -> None:
    def changed(near: float) -> float:
        taught = distillation.labelled_views(
            images(), [Teacher(SIDE, brightness)], SIDE, rounds=8, seed=1, weak_share=near
        )
        own = images().pixels[[int(patient[1:]) for patient in taught.patients]].astype(int)
        return float(np.abs(taught.pixels - own).mean())

    assert changed(1.0) < 0.7 * changed(0.0)
