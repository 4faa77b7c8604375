"""Rendering in child processes: large files, exactly the bytes that were classified, and hostile files."""

import hashlib
import io
import os
import signal
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.dicom_files import make_dicom as dicom_image

from pneumowatch import settings
from pneumowatch.errors import ImageRejected
from pneumowatch.imaging import reader
from pneumowatch.imaging.phantom import draw_phantom
from pneumowatch.source_files import FileCopy
from review.renderer import MAX_SIDE, Renderer


@pytest.fixture
def renderer(tmp_path: Path) -> Iterator[Renderer]:
    with closing(Renderer(settings.load_settings(data_dir=tmp_path / "data", decode_seconds=20))) as renderer:
        yield renderer


def lay(folder: Path, data: bytes, name: str = "image") -> tuple[str, list[FileCopy]]:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    return hashlib.sha256(data).hexdigest(), [(folder, name.encode())]


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def opened(picture: bytes | None) -> Image.Image:
    assert picture is not None
    image = Image.open(io.BytesIO(picture))
    assert (image.format, image.mode) == ("PNG", "L")
    return image


def bomb(side: int) -> bytes:
    """A gray PNG of `side` x `side` black pixels in a few kilobytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(side + 1)) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_an_image_is_shown_in_its_own_size(renderer: Renderer, tmp_path: Path) -> None:
    pixels = draw_phantom(1, pneumonia=True, width=320, height=200)
    picture = opened(renderer.render(*lay(tmp_path / "inbox", png(pixels))))
    np.testing.assert_array_equal(np.asarray(picture), pixels)


def test_a_large_image_is_reduced_and_keeps_its_proportions(renderer: Renderer, tmp_path: Path) -> None:
    large = np.asarray(Image.fromarray(draw_phantom(2, pneumonia=False)).resize((3000, 2400)))
    picture = opened(renderer.render(*lay(tmp_path / "inbox", png(large))))
    assert picture.size == (MAX_SIDE, MAX_SIDE * 4 // 5)


def test_a_dicom_image(renderer: Renderer, tmp_path: Path) -> None:
    values = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48)
    picture = np.asarray(opened(renderer.render(*lay(tmp_path / "inbox", dicom_image(values)))))
    assert picture.shape == (64, 48)
    assert picture[0, 0] < picture[-1, -1]


def test_only_the_bytes_that_were_read_are_shown(renderer: Renderer, tmp_path: Path) -> None:
    sha256, copies = lay(tmp_path / "inbox", png(draw_phantom(3, pneumonia=True, width=64, height=64)))
    lay(tmp_path / "inbox", png(draw_phantom(4, pneumonia=True, width=64, height=64)))  # other content at its path
    assert renderer.render(sha256, copies) is None
    assert renderer.render(sha256, [(tmp_path / "away", b"image"), (tmp_path / "inbox", b"gone")]) is None
    data = png(draw_phantom(3, pneumonia=True, width=64, height=64))
    _, twin = lay(tmp_path / "twins", data, "twin")
    assert renderer.render(sha256, [*copies, *twin]) is not None
    reduced = renderer.render_reduced(sha256, twin, 32)
    np.testing.assert_array_equal(reduced, reader.read_pixels(data, 32))


def test_a_picture_made_is_remembered(renderer: Renderer, tmp_path: Path) -> None:
    sha256, copies = lay(tmp_path / "inbox", png(draw_phantom(5, pneumonia=True, width=64, height=64)))
    made = renderer.render(sha256, copies)
    (tmp_path / "inbox" / "image").unlink()
    assert renderer.render(sha256, copies) == made


def test_asked_for_twice_at_once_it_is_made_once(renderer: Renderer, tmp_path: Path) -> None:
    sha256, copies = lay(tmp_path / "inbox", png(draw_phantom(6, pneumonia=True, width=64, height=64)))
    answers: list[bytes | None] = []
    askers = [threading.Thread(target=lambda: answers.append(renderer.render(sha256, copies))) for _ in range(4)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert len(answers) == 4
    assert len({id(answer) for answer in answers}) == 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"a text", "unsupported"),
        (png(draw_phantom(7, pneumonia=True, width=64, height=64))[:-40], "unreadable"),
        (bomb(20_000), "too_large"),  # 400 megapixels
    ],
    ids=["empty", "text", "cut off", "bomb"],
)
def test_a_file_that_is_no_image_is_a_sentence(renderer: Renderer, tmp_path: Path, data: bytes, reason: str) -> None:
    with pytest.raises(ImageRejected) as refused:
        renderer.render(*lay(tmp_path / "inbox", data))
    assert refused.value.reason == reason
    assert refused.value.sentence


def test_a_bomb_within_the_bounds_costs_its_child_alone(renderer: Renderer, tmp_path: Path) -> None:
    picture = opened(renderer.render(*lay(tmp_path / "inbox", bomb(10_000))))  # 100 megapixels
    assert picture.size == (MAX_SIDE, MAX_SIDE)


def test_a_bomb_beyond_the_memory_of_a_child(tmp_path: Path) -> None:
    small = settings.load_settings(data_dir=tmp_path / "data", decode_memory=160 * 2**20)
    with closing(Renderer(small)) as renderer, pytest.raises(ImageRejected) as refused:
        renderer.render(*lay(tmp_path / "inbox", bomb(14_000)))
    assert refused.value.reason == "too_large"


def test_an_image_that_takes_too_long(tmp_path: Path) -> None:
    hasty = settings.load_settings(data_dir=tmp_path / "data", decode_seconds=0.05)
    with closing(Renderer(hasty)) as renderer, pytest.raises(ImageRejected) as refused:
        renderer.render(*lay(tmp_path / "inbox", bomb(14_000)))
    assert refused.value.reason == "too_slow"


def test_the_children_are_replaced_where_they_are_killed(renderer: Renderer, tmp_path: Path) -> None:
    first = lay(tmp_path / "inbox", png(draw_phantom(8, pneumonia=True, width=64, height=64)), "first")
    assert renderer.render(*first)
    lists = [task / "children" for task in Path("/proc/self/task").iterdir()]  # each thread has its own
    children = [int(pid) for each in lists for pid in each.read_text("ascii").split()]
    workers = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert workers
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    second = lay(tmp_path / "inbox", png(draw_phantom(9, pneumonia=True, width=64, height=64)), "second")
    assert renderer.render(*second)
