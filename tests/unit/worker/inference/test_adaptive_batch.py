"""Adaptive batches: halved where they do not fit into memory, down to one image, and grown again later."""

import numpy as np
import pytest

from pneumowatch.errors import DeviceOutOfMemory
from pneumowatch.imaging.reader import Pixels
from worker.inference import adaptive_batch
from worker.inference.adaptive_batch import AdaptiveBatchSize, is_out_of_memory
from worker.inference.model_output import ModelOutput


class ResourceExhaustedError(Exception):
    """An exception with the name of TensorFlow's."""


class Card:
    """A device that holds so many images at once."""

    def __init__(self, holds: int) -> None:
        self.holds = holds
        self.tried: list[int] = []

    def read(self, images: Pixels, most: int) -> ModelOutput:
        assert len(images) <= most
        self.tried.append(len(images))
        if len(images) > self.holds:
            raise ResourceExhaustedError("OOM when allocating tensor with shape[32,64,64]")
        return ModelOutput(
            images[:, 0, 0] / np.float32(255), np.zeros(len(images), np.float32), images[:, :1, :1] / 1.0
        )


def images(count: int) -> Pixels:
    return np.stack([np.full((2, 2), number, np.uint8) for number in range(count)])


def test_what_fits_is_read_at_once() -> None:
    card, cut = Card(32), AdaptiveBatchSize(32)
    assert len(cut.run(images(32), card.read).probability) == 32
    assert card.tried == [32]


@pytest.mark.parametrize(("holds", "tried"), [(16, [32, 16, 16]), (5, [32, 16, 8, 4, 4, 4, 4, 4, 4, 4, 4])])
def test_a_batch_that_does_not_fit_is_halved_and_every_image_is_read_once_in_its_order(
    holds: int, tried: list[int]
) -> None:
    card, cut = Card(holds), AdaptiveBatchSize(32)
    found = cut.run(images(32), card.read)
    assert card.tried == tried
    np.testing.assert_array_equal(found.probability, np.arange(32, dtype=np.float32) / 255)
    assert found.maps is not None
    np.testing.assert_array_equal(found.maps[:, 0, 0], np.arange(32))


def test_the_smaller_size_is_remembered() -> None:
    card, cut = Card(8), AdaptiveBatchSize(32)
    cut.run(images(32), card.read)
    card.tried.clear()
    cut.run(images(20), card.read)
    assert (card.tried, cut.limit) == ([8, 8, 4], 8)


def test_a_part_of_a_batch_that_does_not_fit_is_halved_itself() -> None:
    card, cut = Card(2), AdaptiveBatchSize(32)
    assert len(cut.run(images(9), card.read).probability) == 9
    assert card.tried == [9, 4, 2, 2, 2, 2, 1]


def test_larger_batches_are_tried_again_after_a_while_and_that_later_and_later_where_in_vain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(adaptive_batch, "FIRST_GROWTH_INTERVAL", 4)
    card, cut = Card(16), AdaptiveBatchSize(32)
    for _ in range(20):
        cut.run(images(32), card.read)
    vain = [number for number, count in enumerate(card.tried) if count == 32]
    gaps = np.diff(vain)
    assert gaps.tolist() == [5, 9, 17]  # 4, 8 and 16 batches that fitted
    card.holds = 32  # what shared the card is gone
    for _ in range(40):
        cut.run(images(32), card.read)
    assert (card.tried[-1], cut.limit) == (32, 32)


def test_lone_images_do_not_make_the_size_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """They say nothing of how many more would fit."""
    monkeypatch.setattr(adaptive_batch, "FIRST_GROWTH_INTERVAL", 5)
    card, cut = Card(8), AdaptiveBatchSize(32)
    cut.run(images(32), card.read)
    for _ in range(50):
        cut.run(images(1), card.read)
    assert cut.limit == 8


def test_a_device_that_holds_not_one_image_is_full_and_can_be_asked_again() -> None:
    card, cut = Card(0), AdaptiveBatchSize(32)
    with pytest.raises(DeviceOutOfMemory) as raised:
        cut.run(images(32), card.read)
    assert isinstance(raised.value.__cause__, ResourceExhaustedError)
    assert card.tried == [32, 16, 8, 4, 2, 1]
    card.holds = 1
    assert len(cut.run(images(3), card.read).probability) == 3


def test_another_error_is_not_taken_for_a_want_of_memory() -> None:
    tried = []

    def read(some: Pixels, most: int) -> ModelOutput:
        tried.append(len(some))
        raise ValueError("no probabilities")

    with pytest.raises(ValueError, match="no probabilities"):
        AdaptiveBatchSize(32).run(images(32), read)
    assert tried == [32]


@pytest.mark.parametrize(
    "said",
    [
        "CUDA out of memory. Tried to allocate 20.00 MiB",
        "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 42 bytes.",
        "CUBLAS_STATUS_ALLOC_FAILED",
        "Failed to allocate scratch buffer for device 0",
    ],
)
def test_a_want_of_memory_is_told_by_what_libraries_say(said: str) -> None:
    assert is_out_of_memory(RuntimeError(said))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(ResourceExhaustedError())
    assert not is_out_of_memory(ValueError("3 outputs"))
