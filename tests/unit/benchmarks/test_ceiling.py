"""The benchmarks' foundations: the ceiling's loop, and images that are no duplicates."""

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest

from cli.bench.copies import copy_images
from pneumowatch.errors import PneumowatchError
from pneumowatch.imaging import reader
from pneumowatch.imaging.phantom import write_phantoms

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import ceiling


def test_the_ceiling_reads_each_image_once_and_in_order(tmp_path: Path) -> None:
    sources = write_phantoms(tmp_path, 2)
    images = copy_images(sources, tmp_path / "images", 2 * ceiling.AHEAD + 5)
    batches: list[reader.Pixels] = []
    result = ceiling.climb(images, batches.append, 16)
    assert result.images == len(images)
    assert result.images_per_second > 0
    assert {len(batch) for batch in batches[:-1]} == {ceiling.BATCH}
    expected = [reader.read_pixels(path.read_bytes(), 16) for path in images]
    np.testing.assert_array_equal(np.concatenate(batches), expected)


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_copies_have_equal_pixels_and_bytes_of_their_own(tmp_path: Path, kind: str) -> None:
    from PIL import Image

    source = tmp_path / f"image.{kind}"
    Image.fromarray(np.arange(4096, dtype=np.uint8).reshape(64, 64)).save(source)
    copies = [path.read_bytes() for path in copy_images([source], tmp_path / "copies", 20)]
    assert len({hashlib.sha256(data).digest() for data in copies}) == 20
    for data in copies:
        np.testing.assert_array_equal(reader.read_pixels(data, 32), reader.read_pixels(source.read_bytes(), 32))


def test_nothing_to_copy_is_said(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("no image")
    with pytest.raises(PneumowatchError, match="no image to measure with"):
        copy_images(tmp_path.iterdir(), tmp_path / "copies", 3)
