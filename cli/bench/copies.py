"""Make many distinct image files from a few, for measuring: equal pixels, different bytes.

A comment in a JPEG, or bytes after the end of a PNG, change the SHA-256 and nothing else, so that the copies do not
count as duplicates.
"""

import struct
from collections.abc import Callable, Iterable
from itertools import cycle, islice
from pathlib import Path
from typing import Final

from pneumowatch.errors import PneumowatchError

JPEG_MAGIC: Final = b"\xff\xd8"
PNG_MAGIC: Final = b"\x89PNG\r\n\x1a\n"
PHANTOM_HEIGHT: Final = 1050  # 1400 x 1050 pixels, as many as a child's x-ray from a digital detector
PHANTOM_COUNT: Final = 24  # a few: drawing takes seconds, copying does not


def distinct_copy(data: bytes, number: int) -> bytes | None:
    """Return the same image in other bytes, different for each number; None where it is neither JPEG nor PNG."""
    mark = f"pneumowatch {number}".encode()
    if data.startswith(JPEG_MAGIC):
        return JPEG_MAGIC + b"\xff\xfe" + struct.pack(">H", len(mark) + 2) + mark + data[2:]
    return data + mark if data.startswith(PNG_MAGIC) else None


def copy_images(
    sources: Iterable[Path], folder: Path, count: int, report_done: Callable[[int], None] = lambda done: None
) -> list[Path]:
    """Write `count` distinct images into `folder`, using the sources in turn.

    Args:
        report_done: called with the number written so far.

    Raises:
        PneumowatchError: none of the sources is a JPEG or PNG file.
    """
    images = [path for path in sources if path.is_file() and _magic(path).startswith((JPEG_MAGIC, PNG_MAGIC))]
    if not images:
        raise PneumowatchError("There is no image to measure with: only JPEG and PNG files are used; none was found.")
    folder.mkdir(parents=True, exist_ok=True)
    copies = []
    for number, image in enumerate(islice(cycle(images), count)):
        copy = folder / f"image-{number:06d}{image.suffix}"
        copy.write_bytes(distinct_copy(image.read_bytes(), number) or b"")
        copies.append(copy)
        report_done(number + 1)
    return copies


def draw_phantoms(folder: Path, report_done: Callable[[int], None] = lambda done: None) -> list[Path]:
    """Draw full-size phantom images, for use without real ones. Returns their paths."""
    from PIL import Image

    from pneumowatch.imaging.phantom import JPEG_QUALITY, draw_phantom

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(1, PHANTOM_COUNT + 1):
        path = folder / f"phantom-{number:02d}.jpeg"
        pixels = draw_phantom(number, number % 2 == 0, PHANTOM_HEIGHT * 4 // 3, PHANTOM_HEIGHT)
        Image.fromarray(pixels).save(path, quality=JPEG_QUALITY)
        paths.append(path)
        report_done(number)
    return paths


def _magic(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(PNG_MAGIC))
