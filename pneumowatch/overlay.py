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
HEAT: Final = (255, 96, 0)
OPAQUE: Final = 0.65  # of the hottest place: the film stays visible beneath
LEGEND: Final = "shows what moved the model, not where disease is"


def drawn(film: Pixels, heat: NDArray[np.float32]) -> bytes:
    """PNG of a film, uint8 (side, side), under its heat, 0 to 1 (h, w)."""
    gray = Image.fromarray(film).resize((EDGE, EDGE), Image.Resampling.BICUBIC).convert("RGB")
    levels = Image.fromarray(np.round(heat.clip(0, 1) * OPAQUE * 255).astype(np.uint8))
    mask = levels.resize((EDGE, EDGE), Image.Resampling.BICUBIC)
    picture = Image.new("RGB", (EDGE, EDGE + STRIP))
    picture.paste(Image.composite(Image.new("RGB", (EDGE, EDGE), HEAT), gray, mask))
    middle = (EDGE / 2, EDGE + STRIP / 2)
    ImageDraw.Draw(picture).text(middle, LEGEND, (255, 255, 255), ImageFont.load_default(18), anchor="mm")
    file = io.BytesIO()
    picture.save(file, "PNG")
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
