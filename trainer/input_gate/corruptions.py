"""Corrupt chest images: turn, invert, crop, put together.

Each function takes a random generator and an image, 0 to 1, and returns a picture of the same side.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image

from trainer.input_gate.drawing import Plane, Rng, fractal_noise, pixel_grid


def quarter_turned(rng: Rng, image: Plane) -> Plane:
    return _flipped(rng, np.rot90(image, int(rng.choice([1, 3]))))


def upside_down(rng: Rng, image: Plane) -> Plane:
    return _flipped(rng, image[::-1])


def _flipped(rng: Rng, image: Plane) -> Plane:
    return image[:, ::-1] if rng.random() < 0.5 else image


def inverted(rng: Rng, image: Plane) -> Plane:
    return _flipped(rng, 1 - image)


def inverted_and_turned(rng: Rng, image: Plane) -> Plane:
    return quarter_turned(rng, 1 - image)


def cropped(rng: Rng, image: Plane) -> Plane:
    """Crop a part of 0.1 to 0.4 of the side, and enlarge it."""
    size = rng.uniform(0.1, 0.4)
    return _part(rng, image, size, size)


def strip_cropped(rng: Rng, image: Plane) -> Plane:
    """Crop a part of 0.1 to 0.4 of one side and of more of the other, and stretch it to the whole."""
    short, long = rng.uniform(0.1, 0.4), rng.uniform(0.4, 1)
    return _part(rng, image, short, long) if rng.random() < 0.5 else _part(rng, image, long, short)


def _part(rng: Rng, image: Plane, high: float, wide: float) -> Plane:
    side = len(image)
    rows, columns = max(int(side * high), 4), max(int(side * wide), 4)
    top, left = rng.integers(0, side - rows + 1), rng.integers(0, side - columns + 1)
    return resized(image[top : top + rows, left : left + columns], side)


def corner_cropped(rng: Rng, image: Plane) -> Plane:
    """Crop one of the corners, up to 0.45 of the side, and enlarge it."""
    side = len(image)
    size = max(int(side * rng.uniform(0.2, 0.45)), 4)
    rows = slice(size) if rng.random() < 0.5 else slice(side - size, side)
    columns = slice(size) if rng.random() < 0.5 else slice(side - size, side)
    return resized(image[rows, columns], side)


def shrunk(rng: Rng, image: Plane) -> Plane:
    """Shrink the whole image onto an even background, like a picture of a screen or a thumbnail."""
    side = len(image)
    size = int(side * rng.uniform(0.15, 0.45))
    top, left = rng.integers(0, side - size + 1, 2)
    ground = np.full((side, side), rng.choice([0.0, 1.0, rng.random()]), np.float32)
    ground[top : top + size, left : left + size] = resized(image, size)
    return ground


def tiled(rows: int, columns: int) -> Callable[[Rng, Plane], Plane]:
    def put_together(rng: Rng, image: Plane) -> Plane:
        """Tile several copies in one picture, each in its own exposure."""
        side = len(image)
        small = resized(image, side // columns, side // rows)
        tiles = [_flipped(rng, small) ** np.exp(rng.normal(0, 0.2)) for _ in range(rows * columns)]
        lines = [np.hstack(tiles[row * columns :][:columns]) for row in range(rows)]
        return resized(np.vstack(lines).astype(np.float32), side)

    return put_together


def patches_shuffled(rng: Rng, image: Plane) -> Plane:
    """Cut the image into squares, and put these together in another order."""
    many = int(rng.integers(2, 6))
    size = len(image) // many
    cut = resized(image, many * size).reshape(many, size, many, size).swapaxes(1, 2).reshape(-1, size, size)
    mixed = cut[rng.permutation(many * many)].reshape(many, many, size, size).swapaxes(1, 2)
    return resized(mixed.reshape(many * size, many * size), len(image))


def phase_scrambled(rng: Rng, image: Plane) -> Plane:
    """Keep the amplitude of each frequency of the image, and replace the phases by random ones."""
    waves = np.abs(np.fft.rfft2(image - image.mean()))
    phases = np.angle(np.fft.rfft2(rng.standard_normal(image.shape)))
    x: Plane = (np.fft.irfft2(waves * np.exp(1j * phases), image.shape) + image.mean()).astype(np.float32)
    return x


def warped(rng: Rng, image: Plane) -> Plane:
    """Distort the image as if it were on a crumpled sheet."""
    side, strong = len(image), rng.uniform(0.4, 0.9)
    x, y = pixel_grid(side)
    rows, columns = (axis + strong * (fractal_noise(rng, side, 2) - 0.5) for axis in (y, x))
    return image[np.clip(rows * side, 0, side - 1).astype(int), np.clip(columns * side, 0, side - 1).astype(int)]


def swirled(rng: Rng, image: Plane) -> Plane:
    """Turn the image about a point near the middle, the more the nearer to that point."""
    side, (at_x, at_y) = len(image), rng.uniform(0.35, 0.65, 2)
    x, y = pixel_grid(side)
    angle = rng.choice([-1, 1]) * rng.uniform(2, 6) * np.exp(-(((x - at_x) ** 2 + (y - at_y) ** 2) / 0.08))
    cos, sin = np.cos(angle), np.sin(angle)
    rows = at_y + sin * (x - at_x) + cos * (y - at_y)
    columns = at_x + cos * (x - at_x) - sin * (y - at_y)
    return image[np.clip(rows * side, 0, side - 1).astype(int), np.clip(columns * side, 0, side - 1).astype(int)]


def half_cropped(rng: Rng, image: Plane) -> Plane:
    """Crop the upper or lower part, and stretch it to the whole."""
    side = len(image)
    size = int(side * rng.uniform(0.25, 0.4))
    return resized(image[:size] if rng.random() < 0.5 else image[side - size :], side)


def resized(x: Plane, wide: int, high: int | None = None) -> Plane:
    return np.asarray(Image.fromarray(np.ascontiguousarray(x)).resize((wide, high or wide), Image.Resampling.BILINEAR))
