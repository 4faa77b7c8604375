"""Chest films spoilt: turned, inverted, cut, put together. Each function takes chance and a film, 0 to 1, and gives a
picture of the same side."""

from collections.abc import Callable

import numpy as np
from PIL import Image

from trainer.brushes import Plane, Rng, cloud, grid


def quarter_turned(rng: Rng, film: Plane) -> Plane:
    return _flipped(rng, np.rot90(film, int(rng.choice([1, 3]))))


def upside_down(rng: Rng, film: Plane) -> Plane:
    return _flipped(rng, film[::-1])


def _flipped(rng: Rng, film: Plane) -> Plane:
    return film[:, ::-1] if rng.random() < 0.5 else film


def inverted(rng: Rng, film: Plane) -> Plane:
    return _flipped(rng, 1 - film)


def inverted_and_turned(rng: Rng, film: Plane) -> Plane:
    return quarter_turned(rng, 1 - film)


def cropped(rng: Rng, film: Plane) -> Plane:
    """A part of 0.1 to 0.4 of the side, enlarged."""
    size = rng.uniform(0.1, 0.4)
    return _part(rng, film, size, size)


def strip(rng: Rng, film: Plane) -> Plane:
    """A part of 0.1 to 0.4 of the one side and of more of the other, drawn out to the whole."""
    short, long = rng.uniform(0.1, 0.4), rng.uniform(0.4, 1)
    return _part(rng, film, short, long) if rng.random() < 0.5 else _part(rng, film, long, short)


def _part(rng: Rng, film: Plane, high: float, wide: float) -> Plane:
    side = len(film)
    rows, columns = max(int(side * high), 4), max(int(side * wide), 4)
    top, left = rng.integers(0, side - rows + 1), rng.integers(0, side - columns + 1)
    return resized(film[top : top + rows, left : left + columns], side)


def cornered(rng: Rng, film: Plane) -> Plane:
    """One of the corners, up to 0.45 of the side, enlarged."""
    side = len(film)
    size = max(int(side * rng.uniform(0.2, 0.45)), 4)
    rows = slice(size) if rng.random() < 0.5 else slice(side - size, side)
    columns = slice(size) if rng.random() < 0.5 else slice(side - size, side)
    return resized(film[rows, columns], side)


def shrunk(rng: Rng, film: Plane) -> Plane:
    """The whole of it, but small, on an even ground: a picture of a screen, a thumbnail."""
    side = len(film)
    size = int(side * rng.uniform(0.15, 0.45))
    top, left = rng.integers(0, side - size + 1, 2)
    ground = np.full((side, side), rng.choice([0.0, 1.0, rng.random()]), np.float32)
    ground[top : top + size, left : left + size] = resized(film, size)
    return ground


def tiled(rows: int, columns: int) -> Callable[[Rng, Plane], Plane]:
    def put_together(rng: Rng, film: Plane) -> Plane:
        """Several films beside each other in one picture, each in its own exposure."""
        side = len(film)
        small = resized(film, side // columns, side // rows)
        tiles = [_flipped(rng, small) ** np.exp(rng.normal(0, 0.2)) for _ in range(rows * columns)]
        lines = [np.hstack(tiles[row * columns :][:columns]) for row in range(rows)]
        return resized(np.vstack(lines).astype(np.float32), side)

    return put_together


def shuffled(rng: Rng, film: Plane) -> Plane:
    """Cut into squares, and these put together in another order."""
    many = int(rng.integers(2, 6))
    size = len(film) // many
    cut = resized(film, many * size).reshape(many, size, many, size).swapaxes(1, 2).reshape(-1, size, size)
    mixed = cut[rng.permutation(many * many)].reshape(many, many, size, size).swapaxes(1, 2)
    return resized(mixed.reshape(many * size, many * size), len(film))


def phases_lost(rng: Rng, film: Plane) -> Plane:
    """The film's waves, each as strong as it was, at other places."""
    waves = np.abs(np.fft.rfft2(film - film.mean()))
    phases = np.angle(np.fft.rfft2(rng.standard_normal(film.shape)))
    x: Plane = (np.fft.irfft2(waves * np.exp(1j * phases), film.shape) + film.mean()).astype(np.float32)
    return x


def bent(rng: Rng, film: Plane) -> Plane:
    """As if on a crumpled sheet."""
    side, strong = len(film), rng.uniform(0.4, 0.9)
    x, y = grid(side)
    rows, columns = (axis + strong * (cloud(rng, side, 2) - 0.5) for axis in (y, x))
    return film[np.clip(rows * side, 0, side - 1).astype(int), np.clip(columns * side, 0, side - 1).astype(int)]


def swirled(rng: Rng, film: Plane) -> Plane:
    """Turned the more, the nearer to a place near the middle."""
    side, (at_x, at_y) = len(film), rng.uniform(0.35, 0.65, 2)
    x, y = grid(side)
    angle = rng.choice([-1, 1]) * rng.uniform(2, 6) * np.exp(-(((x - at_x) ** 2 + (y - at_y) ** 2) / 0.08))
    cos, sin = np.cos(angle), np.sin(angle)
    rows = at_y + sin * (x - at_x) + cos * (y - at_y)
    columns = at_x + cos * (x - at_x) - sin * (y - at_y)
    return film[np.clip(rows * side, 0, side - 1).astype(int), np.clip(columns * side, 0, side - 1).astype(int)]


def half(rng: Rng, film: Plane) -> Plane:
    """The upper or lower part alone, drawn out to the whole."""
    side = len(film)
    size = int(side * rng.uniform(0.25, 0.4))
    return resized(film[:size] if rng.random() < 0.5 else film[side - size :], side)


def resized(x: Plane, wide: int, high: int | None = None) -> Plane:
    return np.asarray(Image.fromarray(np.ascontiguousarray(x)).resize((wide, high or wide), Image.Resampling.BILINEAR))
