"""Films for measuring: any number of files with equal pixels of which none has the bytes of another.

A comment inserted into a JPEG, or bytes behind the end of a PNG, change what SHA-256 sees and nothing else, so that a
few films give many which are no duplicates.
"""

import struct
from collections.abc import Callable, Iterable
from itertools import cycle, islice
from pathlib import Path
from typing import Final

from pneumowatch.errors import PneumowatchError

JPEG: Final = b"\xff\xd8"
PNG: Final = b"\x89PNG\r\n\x1a\n"
HEIGHT: Final = 1050  # a phantom of 1400 x 1050 has as many pixels as a child's film from a digital detector
DRAWN: Final = 24  # phantoms; drawing takes seconds, copying does not


def distinct(data: bytes, number: int) -> bytes | None:
    """The same film in other bytes, for each number its own. None for a kind that cannot be told apart harmlessly."""
    mark = f"pneumowatch {number}".encode()
    if data.startswith(JPEG):
        return JPEG + b"\xff\xfe" + struct.pack(">H", len(mark) + 2) + mark + data[2:]
    return data + mark if data.startswith(PNG) else None


def copy_films(
    sources: Iterable[Path], folder: Path, count: int, tell: Callable[[int], None] = lambda done: None
) -> list[Path]:
    """Write `count` distinct films into `folder`, the sources taken in turn.

    Args:
        tell: told how many are there.

    Raises:
        PneumowatchError: none of the sources is a JPEG or PNG file.
    """
    films = [path for path in sources if path.is_file() and _head(path).startswith((JPEG, PNG))]
    if not films:
        raise PneumowatchError("There is no film to measure with: JPEG and PNG files are taken, and none was found.")
    folder.mkdir(parents=True, exist_ok=True)
    copies = []
    for number, film in enumerate(islice(cycle(films), count)):
        copy = folder / f"film-{number:06d}{film.suffix}"
        copy.write_bytes(distinct(film.read_bytes(), number) or b"")
        copies.append(copy)
        tell(number + 1)
    return copies


def draw_phantoms(folder: Path, tell: Callable[[int], None] = lambda done: None) -> list[Path]:
    """Phantom films of full size, where no real ones are at hand."""
    from PIL import Image

    from pneumowatch.phantom import JPEG_QUALITY, phantom

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(1, DRAWN + 1):
        path = folder / f"phantom-{number:02d}.jpeg"
        pixels = phantom(number, number % 2 == 0, HEIGHT * 4 // 3, HEIGHT)
        Image.fromarray(pixels).save(path, quality=JPEG_QUALITY)
        paths.append(path)
        tell(number)
    return paths


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(PNG))
