"""A film with the heat of what moved the model laid over it, as a picture that says so itself."""

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pneumowatch.errors import SettingsError
from pneumowatch.film import Pixels

EDGE: Final = 512  # pixels of the film in the picture
STRIP: Final = 44  # pixels beneath it, for the legend
LETTERS: Final = 18  # pixels high
HEAT: Final = (255, 96, 0)
OPAQUE: Final = 0.65  # of the hottest place: the film stays visible beneath
LEGEND: Final = "shows what moved the model, not where disease is"


def picture(
    film: Pixels, heat: NDArray[np.float32], size: tuple[int, int] = (EDGE, EDGE), more: Sequence[str] = ()
) -> Image.Image:
    """A film, uint8 (side, side), under its heat, 0 to 1 (h, w), drawn with this width and height in pixels; beneath it
    the legend, and a line for each that is given. Colour, higher than `size` by these lines."""
    gray = Image.fromarray(film).resize(size, Image.Resampling.BICUBIC).convert("RGB")
    levels = Image.fromarray(np.round(heat.clip(0, 1) * OPAQUE * 255).astype(np.uint8))
    mask = levels.resize(size, Image.Resampling.BICUBIC)
    width, height = size
    strip = round(STRIP * width / EDGE)
    drawn = Image.new("RGB", (width, height + strip * (1 + len(more))))
    drawn.paste(Image.composite(Image.new("RGB", size, HEAT), gray, mask))
    font = ImageFont.load_default(LETTERS * width / EDGE)
    for number, line in enumerate((LEGEND, *more)):
        middle = (width / 2, height + strip * (number + 0.5))
        ImageDraw.Draw(drawn).text(middle, line, (255, 255, 255), font, anchor="mm")
    return drawn


def drawn(film: Pixels, heat: NDArray[np.float32]) -> bytes:
    """PNG of a film, uint8 (side, side), under its heat, 0 to 1 (h, w)."""
    file = io.BytesIO()
    picture(film, heat).save(file, "PNG")
    return file.getvalue()


def write(path: Path, film: Pixels, heat: NDArray[np.float32]) -> None:
    """Raises SettingsError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(drawn(film, heat))
    except OSError as error:
        raise SettingsError(f"The pictures cannot be written to {path.parent}: {error.strerror}.") from error


def names(films: Sequence[Path]) -> list[str]:
    """Of the pictures of films: each film's own, with a number where several have it."""
    taken: Counter[str] = Counter()
    named = []
    for film in films:
        taken[film.stem] += 1
        named.append(f"{film.stem}.png" if taken[film.stem] == 1 else f"{film.stem}-{taken[film.stem]}.png")
    return named
