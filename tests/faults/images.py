"""Images to drop: small phantoms, each file with its own bytes."""

from itertools import count
from pathlib import Path
from typing import Final

from PIL import Image

from cli.bench.copies import distinct_copy
from pneumowatch.imaging.phantom import draw_phantom

DRAWN: Final = 8  # drawing takes a sixth of a second, a copy with other bytes next to nothing
WIDTH, HEIGHT = 256, 192  # large enough to pass the shipped model's input gate


class Stock:
    """Make images in a folder, from which they are renamed into an inbox on the same file system."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folder.mkdir()
        self._numbers = count()
        self._drawn: list[bytes] = []
        for number in range(DRAWN):
            path = folder / "drawn.jpeg"
            Image.fromarray(draw_phantom(number, number % 2 == 0, WIDTH, HEIGHT)).save(path, quality=80)
            self._drawn.append(path.read_bytes())

    def make(self, many: int) -> list[Path]:
        """Make so many images, whose names sort in the order in which they will be dropped."""
        return [self._make(place) for place in range(many)]

    def _make(self, place: int) -> Path:
        number = next(self._numbers)
        path = self._folder / f"{place:06}-{number}.jpeg"
        path.write_bytes(distinct_copy(self._drawn[number % DRAWN], number) or b"")
        return path
