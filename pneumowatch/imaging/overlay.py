"""Draw the heat map of what moved the model over an image, with a legend that says so."""

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

OVERLAY_EDGE: Final = 512  # pixels of the image within the overlay
LEGEND_HEIGHT: Final = 44  # pixels below it, for the legend
FONT_HEIGHT: Final = 18  # pixels
HEAT_COLOUR: Final = (255, 96, 0)
MAX_OPACITY: Final = 0.65  # of the hottest place: the image stays visible beneath it
LEGEND: Final = "shows what moved the model, not where disease is"


def render_overlay(
    image: Pixels,
    heatmap: NDArray[np.float32],
    size: tuple[int, int] = (OVERLAY_EDGE, OVERLAY_EDGE),
    extra_lines: Sequence[str] = (),
) -> Image.Image:
    """Draw an image, uint8 (side, side), with its heat map, 0 to 1 (h, w), over it.

    `size` is width and height in pixels. The legend and the extra lines are added below, so the result, in RGB, is
    higher than `size`.
    """
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
    """Return a PNG of an image, uint8 (side, side), with its heat map, 0 to 1 (h, w), over it."""
    file = io.BytesIO()
    render_overlay(image, heatmap).save(file, "PNG")
    return file.getvalue()


def write_overlay(path: Path, image: Pixels, heatmap: NDArray[np.float32]) -> None:
    """Write `overlay_png` to a file. Raises SettingsError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(overlay_png(image, heatmap))
    except OSError as error:
        raise SettingsError(f"The overlays cannot be written to {path.parent}: {error.strerror}.") from error


def overlay_names(images: Sequence[Path]) -> list[str]:
    """Return a file name for the overlay of each image: the image's own, with a number where several share it."""
    taken: Counter[str] = Counter()
    named = []
    for image in images:
        taken[image.stem] += 1
        named.append(f"{image.stem}.png" if taken[image.stem] == 1 else f"{image.stem}-{taken[image.stem]}.png")
    return named
