import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pneumowatch.imaging.reader import read_pixels
from trainer import near_duplicates


def drawn(seed: int) -> Image.Image:
    """Return a smooth random picture."""
    noise = np.random.default_rng(seed).integers(0, 256, (9, 9), np.uint8)
    return Image.fromarray(noise).resize((400, 300), Image.Resampling.BICUBIC)


def as_file(picture: Image.Image, kind: str, **how: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **how)
    return file.getvalue()


def test_a_picture_is_known_again_in_every_form() -> None:
    picture = drawn(1)
    darker = picture.point(lambda value: round(20 + value * 0.6))
    forms = [
        as_file(picture, "PNG"),
        as_file(picture, "JPEG", quality=60),
        as_file(picture.resize((224, 224)), "JPEG", quality=80),
        as_file(darker, "PNG"),
        as_file(drawn(2), "PNG"),
    ]
    found = near_duplicates.find_near_duplicates(
        [str(number) for number in range(5)], [read_pixels(form, 160) for form in forms]
    )
    assert found.exact == ()
    assert set(found.near) == {(a, b) for a in range(4) for b in range(a + 1, 4)}


def test_a_copy_is_exact_and_not_near_as_well() -> None:
    image = read_pixels(as_file(drawn(3), "PNG"), 64)
    assert near_duplicates.find_near_duplicates(
        ["a", "b", "a", "a"], [image, 255 - image, image, image]
    ) == near_duplicates.DuplicatePairs(((0, 2), (2, 3)), ())


def test_more_images_than_are_compared_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "CHUNK_ROWS", 3)
    images = [read_pixels(as_file(drawn(seed), "PNG"), 64) for seed in (1, 2, 3, 4, 5, 1, 6, 2)]
    assert set(near_duplicates.find_near_duplicates([str(n) for n in range(8)], images).near) == {(0, 5), (1, 7)}
    assert near_duplicates.find_near_duplicates([], []) == near_duplicates.DuplicatePairs((), ())


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.data())
def test_whoever_is_joined_has_one_rank(numbers: list[int], data: st.DataObject) -> None:
    patients = [f"p{number}" for number in numbers]
    index = st.integers(0, len(patients) - 1)
    pairs = data.draw(st.lists(st.tuples(index, index), max_size=10))
    ranks = near_duplicates.propagate_ranks(patients, pairs, [number % 3 for number in numbers])
    assert all(ranks[a] == ranks[b] for a, b in pairs)
    assert all(len({r for p, r in zip(patients, ranks, strict=True) if p == one}) == 1 for one in patients)
    assert all(rank >= number % 3 for rank, number in zip(ranks, numbers, strict=True))
    if not pairs:
        assert ranks == [number % 3 for number in numbers]
