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
from pneumowatch.imaging.reader import Pixels

OVERLAY_EDGE: Final = 512  # pixels of the film in the picture
LEGEND_HEIGHT: Final = 44  # pixels beneath it, for the legend
FONT_HEIGHT: Final = 18  # pixels high
HEAT_COLOUR: Final = (255, 96, 0)
MAX_OPACITY: Final = 0.65  # of the hottest place: the film stays visible beneath
LEGEND: Final = "shows what moved the model, not where disease is"


def render_overlay(
    image: Pixels,
    heatmap: NDArray[np.float32],
    size: tuple[int, int] = (OVERLAY_EDGE, OVERLAY_EDGE),
    extra_lines: Sequence[str] = (),
) -> Image.Image:
    """A film, uint8 (side, side), under its heat, 0 to 1 (h, w), drawn with this width and height in pixels; beneath it
    the legend, and a line for each that is given. Colour, higher than `size` by these lines."""
    gray = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC).convert("RGB")
    levels = Image.fromarray(np.round(heatmap.clip(0, 1) * MAX_OPACITY * 255).astype(np.uint8))
    mask = levels.resize(size, Image.Resampling.BICUBIC)
    width, height = size
    strip = round(LEGEND_HEIGHT * width / OVERLAY_EDGE)
    canvas = Image.new("RGB", (width, height + strip * (1 + len(extra_lines))))
    canvas.paste(Image.composite(Image.new("RGB", size, HEAT_COLOUR), gray, mask))
    font = ImageFont.load_default(FONT_HEIGHT * width / OVERLAY_EDGE)
    for number, line in enumerate((LEGEND, *extra_lines)):
        centre = (width / 2, height + strip * (number + 0.5))
        ImageDraw.Draw(canvas).text(centre, line, (255, 255, 255), font, anchor="mm")
    return canvas


def overlay_png(image: Pixels, heatmap: NDArray[np.float32]) -> bytes:
    """PNG of a film, uint8 (side, side), under its heat, 0 to 1 (h, w)."""
    file = io.BytesIO()
    render_overlay(image, heatmap).save(file, "PNG")
    return file.getvalue()


def write_overlay(path: Path, image: Pixels, heatmap: NDArray[np.float32]) -> None:
    """Raises SettingsError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(overlay_png(image, heatmap))
    except OSError as error:
        raise SettingsError(f"The pictures cannot be written to {path.parent}: {error.strerror}.") from error


def overlay_names(images: Sequence[Path]) -> list[str]:
    """Of the pictures of films: each film's own, with a number where several have it."""
    taken: Counter[str] = Counter()
    named = []
    for image in images:
        taken[image.stem] += 1
        named.append(f"{image.stem}.png" if taken[image.stem] == 1 else f"{image.stem}-{taken[image.stem]}.png")
    return named
