from pathlib import Path

import numpy as np
import pytest

from pneumowatch.imaging import reader
from pneumowatch.imaging.phantom import draw_phantom, write_phantoms


def test_same_arguments_same_pixels() -> None:
    first = draw_phantom(3, True)
    assert first.shape == (768, 1024)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, draw_phantom(3, True))


@pytest.mark.parametrize("size", [(224, 224), (1500, 900)])
def test_any_size(size: tuple[int, int]) -> None:
    width, height = size
    assert draw_phantom(0, False, width, height).shape == (height, width)


def test_children_differ() -> None:
    one, other = (draw_phantom(seed, False).astype(float) for seed in (1, 2))
    assert np.abs(one - other).mean() > 3


def test_looks_like_a_chest() -> None:
    chest = draw_phantom(7, False).astype(float)
    spine, belly = chest[300:450, 500:525].mean(), chest[700:, 300:700].mean()
    lungs = [chest[300:450, columns].mean() for columns in (slice(320, 400), slice(700, 760))]
    corner = chest[600:, 980:].mean()
    assert corner < 15 < max(lungs) < 120 < belly
    assert spine > max(lungs) + 60


def test_pneumonia_brightens_only_the_lungs() -> None:
    healthy, ill = (draw_phantom(5, pneumonia).astype(float) for pneumonia in (False, True))
    change = ill - healthy
    assert change.max() > 40
    assert change.min() > -5
    changed = (change > 5).mean()
    assert 0.02 < changed < 0.3
    assert not (change[:100] > 5).any()
    assert not (change[720:] > 5).any()


def test_written_images_alternate_and_can_be_read(tmp_path: Path) -> None:
    paths = write_phantoms(tmp_path, 3)
    assert [path.name for path in paths] == [
        "phantom-0001-normal.jpeg",
        "phantom-0002-pneumonia.jpeg",
        "phantom-0003-normal.jpeg",
    ]
    assert sorted(tmp_path.iterdir()) == paths
    assert reader.read_pixels(paths[0].read_bytes(), 150).std() > 30


def test_a_number_always_names_the_same_image(tmp_path: Path) -> None:
    second = write_phantoms(tmp_path, 2)[1]
    before = second.read_bytes()
    assert write_phantoms(tmp_path, 1, seed=1) == [second]
    assert second.read_bytes() == before
