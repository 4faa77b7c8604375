"""The image store: images are kept to the pixel, complete or not at all."""

import base64
import io
import os
import stat
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pneumowatch.imaging import image_store
from pneumowatch.imaging.phantom import draw_phantom

SHA = "ab" * 32
IMAGE = draw_phantom(3, pneumonia=True, width=64, height=64)


def test_an_image_comes_back_to_the_pixel(tmp_path: Path) -> None:
    assert image_store.load_image(tmp_path, SHA) is None
    image_store.store_image(tmp_path, SHA, IMAGE)
    np.testing.assert_array_equal(image_store.load_image(tmp_path, SHA), IMAGE)
    assert image_store.load_activation_map(tmp_path, SHA) is None
    assert image_store.image_path(tmp_path, SHA) == tmp_path / "images" / f"{SHA}.png"
    with Image.open(image_store.image_path(tmp_path, SHA)) as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "L", (64, 64))


def test_a_map_shows_probabilities(tmp_path: Path) -> None:
    logits = np.float32([[-1e9, -np.log(3), 0], [np.log(3), 50, 1e9]])
    image_store.store_image(tmp_path, SHA, IMAGE, logits)
    np.testing.assert_array_equal(image_store.load_activation_map(tmp_path, SHA), [[0, 64, 128], [191, 255, 255]])
    np.testing.assert_array_equal(image_store.load_image(tmp_path, SHA), IMAGE)


@pytest.mark.parametrize("side", [1, 2, 160, 331])
def test_any_reader_of_png_reads_image_and_map(tmp_path: Path, side: int) -> None:
    pixels = np.random.default_rng(side).integers(0, 256, (side, side), np.uint8)
    image_store.store_image(tmp_path, SHA, pixels, np.zeros((3, 5)))
    data = image_store.image_path(tmp_path, SHA).read_bytes()
    np.testing.assert_array_equal(imagecodecs.png_decode(data), pixels)
    with Image.open(image_store.image_path(tmp_path, SHA)) as picture:
        picture.verify()
    with Image.open(io.BytesIO(base64.b64decode(picture.info["activation map"]))) as shades:
        np.testing.assert_array_equal(np.asarray(shades), np.full((3, 5), 128))


@pytest.mark.parametrize("text", ["", "no base64!", base64.b64encode(b"no picture").decode()])
def test_a_map_that_is_damaged_is_not_there(tmp_path: Path, text: str) -> None:
    info = PngInfo()
    info.add_text("activation map", text)
    image_store.image_path(tmp_path, SHA).parent.mkdir()
    Image.fromarray(IMAGE).save(image_store.image_path(tmp_path, SHA), pnginfo=info)
    assert image_store.load_activation_map(tmp_path, SHA) is None
    np.testing.assert_array_equal(image_store.load_image(tmp_path, SHA), IMAGE)


def test_an_image_kept_anew_loses_the_map_of_another_model(tmp_path: Path) -> None:
    image_store.store_image(tmp_path, SHA, IMAGE, np.zeros((3, 3)))
    image_store.store_image(tmp_path, SHA, IMAGE[:32, :32])
    assert image_store.load_activation_map(tmp_path, SHA) is None
    np.testing.assert_array_equal(image_store.load_image(tmp_path, SHA), IMAGE[:32, :32])


def test_images_are_their_owners_and_groups_alone(tmp_path: Path) -> None:
    image_store.store_image(tmp_path, SHA, IMAGE, np.zeros((3, 3)))
    modes = {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "images").iterdir()}
    assert modes == {0o640}


@pytest.mark.parametrize("content", [b"", b"no picture", b"cut"])
def test_what_is_damaged_is_not_there(tmp_path: Path, content: bytes) -> None:
    image_store.store_image(tmp_path, SHA, IMAGE)
    file = image_store.image_path(tmp_path, SHA)
    file.write_bytes(file.read_bytes()[:-200] if content == b"cut" else content)
    assert image_store.load_image(tmp_path, SHA) is None


def test_a_picture_of_another_kind_is_no_image(tmp_path: Path) -> None:
    image_store.image_path(tmp_path, SHA).parent.mkdir()
    Image.new("RGB", (9, 9)).save(image_store.image_path(tmp_path, SHA))
    assert image_store.load_image(tmp_path, SHA) is None


def test_a_disk_that_is_full_leaves_what_was_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image_store.store_image(tmp_path, SHA, IMAGE)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fchmod", full)
    with pytest.raises(OSError, match="No space"):
        image_store.store_image(tmp_path, SHA, IMAGE[:32, :32])
    monkeypatch.undo()
    np.testing.assert_array_equal(image_store.load_image(tmp_path, SHA), IMAGE)
    assert [file.name for file in (tmp_path / "images").iterdir()] == [f"{SHA}.png"]
