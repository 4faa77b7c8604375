"""Phantom images for tests, each drawn once in a process: drawing one takes a quarter of a second."""

from functools import cache

import numpy as np

from pneumowatch.imaging.phantom import draw_phantom
from pneumowatch.imaging.reader import Pixels


@cache
def phantom(seed: int, pneumonia: bool, width: int, height: int) -> Pixels:
    """Return `draw_phantom` of the same arguments; the array is shared, and may not be written to."""
    pixels = draw_phantom(seed, pneumonia, width, height)
    pixels.flags.writeable = False
    return pixels


def phantoms(first: int, count: int, side: int) -> Pixels:
    """Return phantoms of the seeds `first` on, uint8 (count, side, side, 1); those of even seeds have pneumonia."""
    return np.stack([phantom(seed, seed % 2 == 0, side, side) for seed in range(first, first + count)])[..., None]
