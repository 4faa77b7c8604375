"""Drawing tools for out-of-distribution samples: planes of numbers, about 0 to 1, and shapes on them."""

import string
from collections.abc import Callable
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Plane = NDArray[np.floating]
Rng = np.random.Generator
Point = tuple[float, float]  # x to the right and y downwards, 0 to 1

LETTERS: Final = string.ascii_letters + string.digits + ".,;:-()/%"


@cache
def pixel_grid(side: int) -> tuple[Plane, Plane]:
    """Return x and y of every pixel, 0 to 1; read-only."""
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    x.flags.writeable = y.flags.writeable = False
    return x, y


def fractal_noise(rng: Rng, side: int, slope: float) -> Plane:
    """Generate noise from 0 to 1 whose amplitude falls with frequency to the power of `slope`.

    The slope of landscapes is near 1.
    """
    waves = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    waves[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((side, side))) / waves**slope
    return stretch_contrast(np.fft.irfft2(spectrum, (side, side)))


def stretch_contrast(x: NDArray[np.floating]) -> Plane:
    """Stretch to 0..1, and cut off the outermost percent at each end."""
    low, high = np.percentile(x, (1, 99))
    return np.clip((x - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)


def gaussian_blur(x: Plane, radius: float) -> Plane:
    """Blur by a Gaussian of `radius` pixels, in 256 grays from 0 to 1."""
    image = Image.fromarray(np.round(np.clip(x, 0, 1) * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), np.float32) / 255


def rasterize(side: int, paint: Callable[[ImageDraw.ImageDraw], object]) -> Plane:
    """Return what `paint` draws on black, 255 being 1."""
    image = Image.new("L", (side, side))
    paint(ImageDraw.Draw(image))
    return np.asarray(image, np.float32) / 255


def random_shape(rng: Rng, side: int, size: float) -> Callable[[ImageDraw.ImageDraw], object]:
    x, y = rng.uniform(-0.1, 1.1, 2) * side
    wide, high = size * side * np.exp(rng.normal(0, 0.4, 2))
    kind = rng.integers(4)
    if kind == 0:
        return lambda canvas: canvas.ellipse((x - wide, y - high, x + wide, y + high), fill=255)
    if kind == 1:
        return lambda canvas: canvas.rectangle((x - wide, y - high, x + wide, y + high), fill=255)
    if kind == 2:
        ends = [tuple(end) for end in rng.uniform(0, side, (rng.integers(2, 5), 2))]
        return lambda canvas: canvas.line(ends, fill=255, width=int(rng.integers(1, 9)))
    angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 9)))
    return lambda canvas: canvas.polygon([(x + wide * np.cos(a), y + high * np.sin(a)) for a in angles], fill=255)


def random_text(canvas: ImageDraw.ImageDraw, rng: Rng, at: Point, size: float, wide: float) -> None:
    words = ["".join(rng.choice(list(LETTERS), rng.integers(1, 10))) for _ in range(max(int(wide / size / 3), 1))]
    canvas.text(at, " ".join(words), fill=255, font=ImageFont.load_default(max(size, 4)))


def ellipse(side: int, at: Point, reach: Point, angle: float = 0.0, soft: float = 0.02) -> Plane:
    """Draw an ellipse: 1 inside, 0 outside, over an edge of about `soft`."""
    x, y = pixel_grid(side)
    x, y = x - at[0], y - at[1]
    cos, sin = np.cos(angle), np.sin(angle)
    far = np.hypot((cos * x + sin * y) / reach[0], (cos * y - sin * x) / reach[1])
    inside: Plane = 1 / (1 + np.exp(np.clip((far - 1) * min(reach) / soft * 4, -50, 50)))
    return inside


def project_on_line(side: int, start: Point, end: Point) -> tuple[Plane, Plane]:
    """Return for every pixel how far along the line from start to end it lies, 0 to 1, and how far off it."""
    x, y = pixel_grid(side)
    wide, high = end[0] - start[0], end[1] - start[1]
    share = np.clip(((x - start[0]) * wide + (y - start[1]) * high) / max(wide**2 + high**2, 1e-9), 0, 1)
    return share, np.hypot(x - start[0] - share * wide, y - start[1] - share * high)


def soft_tissue(side: int, start: Point, end: Point, thick: float) -> Plane:
    """Draw the shadow of a limb: round, so fainter towards its edges."""
    _, off = project_on_line(side, start, end)
    return np.sqrt(np.clip(1 - (off / thick) ** 2, 0, 1))


def bone_shaft(side: int, start: Point, end: Point, thick: float, ends: float = 1.5) -> Plane:
    """Draw the shaft of a bone, with bright rims and wider ends."""
    share, off = project_on_line(side, start, end)
    near = off / (thick * (1 + (ends - 1) * np.abs(2 * share - 1) ** 6))
    bone: Plane = np.exp(-(near**6)) * (0.6 + 0.4 * np.clip(near, 0, 1) ** 2)
    return bone


def polar_offset(at: Point, by: float, far: float) -> Point:
    """Return the point that lies `far` from `at` in the direction `by`: radians clockwise, 0 is upwards."""
    return at[0] + far * np.sin(by), at[1] - far * np.cos(by)
