"""Strangers: pictures that are no frontal chest films, for fitting the gate and for measuring it.

Drawn ones come from `trainer.drawings`; spoilt ones are the caller's chest films turned, inverted, cut or put together.
Nothing is copied from anywhere. Some kinds are held out: no gate is fitted to them, so that what is measured on them
tells how it will do on pictures that nobody drew.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from pneumowatch.film import Pixels
from trainer import drawings
from trainer.drawings import Plane, Rng, blurred

SPOILT_SHARE: Final = 3  # chest films spoilt, for each picture that is drawn: they are the hardest to tell


@dataclass(frozen=True)
class Kind:
    """One way of being no chest film. `draw` takes chance and a side, or chance and a chest film, 0 to 1."""

    name: str
    group: str  # the class under which it is counted
    draw: Callable[[Rng, int], Plane] | None = None
    spoil: Callable[[Rng, Plane], Plane] | None = None
    held_out: bool = False  # for measuring alone


def draw(kind: Kind, count: int, films: Pixels, seed: int) -> Pixels:
    """Pictures of one kind, uint8 (count, side, side, 1), the same for the same seed.

    Args:
        films: uint8 (n, side, side, 1) chest films of at least one; their side is that of the pictures, and spoilt
            pictures are made of them.
    """
    rng = np.random.default_rng([seed, *kind.name.encode()])
    return np.array([_one(kind, films, rng) for _ in range(count)], np.uint8).reshape(count, *films.shape[1:])


def mixture(count: int, films: Pixels, seed: int) -> Pixels:
    """About `count` pictures of all kinds that are not held out, more of those that are nearest to films; uint8
    (m, side, side, 1)."""
    fitted = [kind for kind in KINDS if not kind.held_out]
    shares = [SPOILT_SHARE if kind.spoil else 1 for kind in fitted]
    unit = count / sum(shares)
    drawn = [draw(kind, math.ceil(share * unit), films, seed) for kind, share in zip(fitted, shares, strict=True)]
    return np.concatenate(drawn)


def _one(kind: Kind, films: Pixels, rng: Rng) -> Pixels:
    if kind.draw:
        return _pixels(_photographed(rng, kind.draw(rng, films.shape[1])))
    assert kind.spoil
    return _pixels(kind.spoil(rng, films[rng.integers(len(films)), :, :, 0].astype(np.float32) / 255))


def _pixels(x: Plane) -> Pixels:
    return np.round(np.clip(x, 0, 1) * 255).astype(np.uint8)


def _photographed(rng: Rng, x: Plane) -> Plane:
    """As some camera gave it: cut, turned, sharp or not, of any exposure, negative or not."""
    side = len(x)
    if rng.random() < 0.3:
        size = int(side * rng.uniform(0.5, 1))
        top, left = rng.integers(0, side - size + 1, 2)
        x = _resized(x[top : top + size, left : left + size], side)
    if rng.random() < 0.5:
        x = x[:, ::-1]
    if rng.random() < 0.15:
        x = np.rot90(x, int(rng.integers(1, 4)))
    if rng.random() < 0.4:
        x = blurred(np.ascontiguousarray(x), rng.exponential(1))
    if rng.random() < 0.5:
        x = drawings.stretched(x)
    if rng.random() < 0.15:
        x = 1 - x
    x = np.clip(x, 0, 1) ** np.exp(rng.normal(0, 0.4))
    x = (x - 0.5) * np.exp(rng.normal(0, 0.25)) + 0.5 + rng.normal(0, 0.08)
    if rng.random() < 0.1:
        edge = int(rng.uniform(0, 0.2) * side)
        x = np.array(x)
        x[:edge] = x[side - edge :] = rng.choice([0.0, 1.0])
    return (x + rng.normal(0, rng.exponential(0.01), x.shape)).astype(np.float32)


def _resized(x: Plane, wide: int, high: int | None = None) -> Plane:
    return np.asarray(Image.fromarray(np.ascontiguousarray(x)).resize((wide, high or wide), Image.Resampling.BILINEAR))


# Chest films, spoilt


def _quarter_turned(rng: Rng, film: Plane) -> Plane:
    return _flipped(rng, np.rot90(film, int(rng.choice([1, 3]))))


def _upside_down(rng: Rng, film: Plane) -> Plane:
    return _flipped(rng, film[::-1])


def _flipped(rng: Rng, film: Plane) -> Plane:
    return film[:, ::-1] if rng.random() < 0.5 else film


def _inverted(rng: Rng, film: Plane) -> Plane:
    return _flipped(rng, 1 - film)


def _inverted_and_turned(rng: Rng, film: Plane) -> Plane:
    return _quarter_turned(rng, 1 - film)


def _cropped(rng: Rng, film: Plane) -> Plane:
    """A part of 0.1 to 0.4 of the side, enlarged."""
    size = rng.uniform(0.1, 0.4)
    return _part(rng, film, size, size)


def _strip(rng: Rng, film: Plane) -> Plane:
    """A part of 0.1 to 0.4 of the one side and of more of the other, drawn out to the whole."""
    short, long = rng.uniform(0.1, 0.4), rng.uniform(0.4, 1)
    return _part(rng, film, short, long) if rng.random() < 0.5 else _part(rng, film, long, short)


def _part(rng: Rng, film: Plane, high: float, wide: float) -> Plane:
    side = len(film)
    rows, columns = max(int(side * high), 4), max(int(side * wide), 4)
    top, left = rng.integers(0, side - rows + 1), rng.integers(0, side - columns + 1)
    return _resized(film[top : top + rows, left : left + columns], side)


def _cornered(rng: Rng, film: Plane) -> Plane:
    """One of the corners, up to 0.45 of the side, enlarged."""
    side = len(film)
    size = max(int(side * rng.uniform(0.2, 0.45)), 4)
    rows = slice(size) if rng.random() < 0.5 else slice(side - size, side)
    columns = slice(size) if rng.random() < 0.5 else slice(side - size, side)
    return _resized(film[rows, columns], side)


def _shrunk(rng: Rng, film: Plane) -> Plane:
    """The whole of it, but small, on an even ground: a picture of a screen, a thumbnail."""
    side = len(film)
    size = int(side * rng.uniform(0.15, 0.45))
    top, left = rng.integers(0, side - size + 1, 2)
    ground = np.full((side, side), rng.choice([0.0, 1.0, rng.random()]), np.float32)
    ground[top : top + size, left : left + size] = _resized(film, size)
    return ground


def _tiled(rows: int, columns: int) -> Callable[[Rng, Plane], Plane]:
    def tiled(rng: Rng, film: Plane) -> Plane:
        """Several films beside each other in one picture, each in its own exposure."""
        side = len(film)
        small = _resized(film, side // columns, side // rows)
        tiles = [_flipped(rng, small) ** np.exp(rng.normal(0, 0.2)) for _ in range(rows * columns)]
        lines = [np.hstack(tiles[row * columns :][:columns]) for row in range(rows)]
        return _resized(np.vstack(lines).astype(np.float32), side)

    return tiled


def _shuffled(rng: Rng, film: Plane) -> Plane:
    """Cut into squares, and these put together in another order."""
    many = int(rng.integers(2, 6))
    size = len(film) // many
    cut = _resized(film, many * size).reshape(many, size, many, size).swapaxes(1, 2).reshape(-1, size, size)
    mixed = cut[rng.permutation(many * many)].reshape(many, many, size, size).swapaxes(1, 2)
    return _resized(mixed.reshape(many * size, many * size), len(film))


def _phases_lost(rng: Rng, film: Plane) -> Plane:
    """The film's waves, each as strong as it was, at other places."""
    waves = np.abs(np.fft.rfft2(film - film.mean()))
    phases = np.angle(np.fft.rfft2(rng.standard_normal(film.shape)))
    x: Plane = (np.fft.irfft2(waves * np.exp(1j * phases), film.shape) + film.mean()).astype(np.float32)
    return x


def _bent(rng: Rng, film: Plane) -> Plane:
    """As if on a crumpled sheet."""
    side, strong = len(film), rng.uniform(0.4, 0.9)
    x, y = drawings.grid(side)
    rows, columns = (axis + strong * (drawings.cloud(rng, side, 2) - 0.5) for axis in (y, x))
    return film[np.clip(rows * side, 0, side - 1).astype(int), np.clip(columns * side, 0, side - 1).astype(int)]


def _swirled(rng: Rng, film: Plane) -> Plane:
    """Turned the more, the nearer to a place near the middle."""
    side, (at_x, at_y) = len(film), rng.uniform(0.35, 0.65, 2)
    x, y = drawings.grid(side)
    angle = rng.choice([-1, 1]) * rng.uniform(2, 6) * np.exp(-(((x - at_x) ** 2 + (y - at_y) ** 2) / 0.08))
    cos, sin = np.cos(angle), np.sin(angle)
    rows = at_y + sin * (x - at_x) + cos * (y - at_y)
    columns = at_x + cos * (x - at_x) - sin * (y - at_y)
    return film[np.clip(rows * side, 0, side - 1).astype(int), np.clip(columns * side, 0, side - 1).astype(int)]


def _half(rng: Rng, film: Plane) -> Plane:
    """The upper or lower part alone, drawn out to the whole."""
    side = len(film)
    size = int(side * rng.uniform(0.25, 0.4))
    return _resized(film[:size] if rng.random() < 0.5 else film[side - size :], side)


PHOTOGRAPH, DOCUMENT, SCREEN, PATTERN = "photographs", "documents", "screenshots and plots", "test patterns and logos"
NOISE, BLANK, BODY, LATERAL = "noise", "blank", "other parts of the body", "chests from the side"
MACHINE, TURNED, INVERTED = "other modalities", "chest films turned", "chest films inverted"
CROPPED, SEVERAL, WRECKED = "chest films cropped", "several films, or a small one", "chest films in pieces"

KINDS: Final = (
    Kind("scene", PHOTOGRAPH, drawings.scene),
    Kind("thing", PHOTOGRAPH, drawings.thing),
    Kind("landscape", PHOTOGRAPH, drawings.landscape),
    Kind("portrait", PHOTOGRAPH, drawings.portrait),
    Kind("street", PHOTOGRAPH, drawings.street, held_out=True),
    Kind("animal", PHOTOGRAPH, drawings.animal, held_out=True),
    Kind("page", DOCUMENT, drawings.page),
    Kind("form", DOCUMENT, drawings.form),
    Kind("handwriting", DOCUMENT, drawings.handwriting, held_out=True),
    Kind("screen", SCREEN, drawings.screen),
    Kind("plot", SCREEN, drawings.plot, held_out=True),
    Kind("chart", PATTERN, drawings.chart),
    Kind("logo", PATTERN, drawings.logo, held_out=True),
    Kind("noise", NOISE, drawings.noise),
    Kind("stripes", NOISE, drawings.stripes, held_out=True),
    Kind("blank", BLANK, drawings.blank),
    Kind("hand", BODY, drawings.hand),
    Kind("limb", BODY, drawings.limb),
    Kind("pelvis", BODY, drawings.pelvis),
    Kind("abdomen", BODY, drawings.abdomen),
    Kind("foot", BODY, drawings.foot, held_out=True),
    Kind("skull", BODY, drawings.skull, held_out=True),
    Kind("spine", BODY, drawings.spine, held_out=True),
    Kind("lateral", LATERAL, drawings.lateral),
    Kind("CT", MACHINE, drawings.ct),
    Kind("MR", MACHINE, drawings.mr),
    Kind("cells", MACHINE, drawings.cells),
    Kind("ultrasound", MACHINE, drawings.ultrasound, held_out=True),
    Kind("vessels", MACHINE, drawings.vessels, held_out=True),
    Kind("quarter turn", TURNED, spoil=_quarter_turned),
    Kind("upside down", TURNED, spoil=_upside_down),
    Kind("inverted", INVERTED, spoil=_inverted),
    Kind("inverted and turned", INVERTED, spoil=_inverted_and_turned, held_out=True),
    Kind("cropped", CROPPED, spoil=_cropped),
    Kind("strip", CROPPED, spoil=_strip),
    Kind("corner", CROPPED, spoil=_cornered, held_out=True),
    Kind("half", CROPPED, spoil=_half, held_out=True),
    Kind("shrunk", SEVERAL, spoil=_shrunk),
    Kind("two by two", SEVERAL, spoil=_tiled(2, 2)),
    Kind("side by side", SEVERAL, spoil=_tiled(1, 2)),
    Kind("one over the other", SEVERAL, spoil=_tiled(2, 1)),
    Kind("two by three", SEVERAL, spoil=_tiled(2, 3), held_out=True),
    Kind("shuffled", WRECKED, spoil=_shuffled),
    Kind("phases lost", WRECKED, spoil=_phases_lost),
    Kind("bent", WRECKED, spoil=_bent),
    Kind("swirled", WRECKED, spoil=_swirled, held_out=True),
)
