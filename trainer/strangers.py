"""Strangers: pictures that are no frontal chest films, for fitting the gate and for measuring it.

Drawn ones come from `photographs`, `papers`, `bodies` and `slices`; spoilt ones are the caller's chest films turned,
inverted, cut or put together. Nothing is copied from anywhere. Some kinds are held out: no gate is fitted to them, so
that what is measured on them tells how it will do on pictures that nobody drew.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from pneumowatch.film import Pixels
from trainer import bodies, papers, photographs, slices, spoilt
from trainer.brushes import Plane, Rng, blurred, stretched
from trainer.spoilt import resized

SPOILT_SHARE: Final = 3  # chest films spoilt, for each picture that is drawn: they are the hardest to tell


@dataclass(frozen=True)
class Kind:
    """One way of being no chest film. `draw` takes chance and a side, or chance and a chest film, 0 to 1."""

    name: str
    group: str  # the class under which it is counted
    draw: Callable[[Rng, int], Plane] | None = None
    spoil: Callable[[Rng, Plane], Plane] | None = None
    held_out: bool = False  # for measuring alone
    times: int = 1  # as many of it as of its like, in a mixture


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
    shares = [kind.times * (SPOILT_SHARE if kind.spoil else 1) for kind in fitted]
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
        x = resized(x[top : top + size, left : left + size], side)
    if rng.random() < 0.5:
        x = x[:, ::-1]
    if rng.random() < 0.15:
        x = np.rot90(x, int(rng.integers(1, 4)))
    if rng.random() < 0.4:
        x = blurred(np.ascontiguousarray(x), rng.exponential(1))
    if rng.random() < 0.5:
        x = stretched(x)
    if rng.random() < 0.15:
        x = 1 - x
    x = np.clip(x, 0, 1) ** np.exp(rng.normal(0, 0.4))
    x = (x - 0.5) * np.exp(rng.normal(0, 0.25)) + 0.5 + rng.normal(0, 0.08)
    if rng.random() < 0.1:
        edge = int(rng.uniform(0, 0.2) * side)
        x = np.array(x)
        x[:edge] = x[side - edge :] = rng.choice([0.0, 1.0])
    return (x + rng.normal(0, rng.exponential(0.01), x.shape)).astype(np.float32)


PHOTOGRAPH, DOCUMENT, SCREEN, PATTERN = "photographs", "documents", "screenshots and plots", "test patterns and logos"
NOISE, BLANK, BODY, LATERAL = "noise", "blank", "other parts of the body", "chests from the side"
MACHINE, TURNED, INVERTED = "other modalities", "chest films turned", "chest films inverted"
CROPPED, SEVERAL, WRECKED = "chest films cropped", "several films, or a small one", "chest films in pieces"

KINDS: Final = (
    Kind("scene", PHOTOGRAPH, photographs.scene),
    Kind("thing", PHOTOGRAPH, photographs.thing),
    Kind("landscape", PHOTOGRAPH, photographs.landscape),
    Kind("portrait", PHOTOGRAPH, photographs.portrait),
    Kind("street", PHOTOGRAPH, photographs.street, held_out=True),
    Kind("animal", PHOTOGRAPH, photographs.animal, held_out=True),
    Kind("page", DOCUMENT, papers.page),
    Kind("form", DOCUMENT, papers.form),
    Kind("handwriting", DOCUMENT, papers.handwriting, held_out=True),
    Kind("screen", SCREEN, papers.screen),
    Kind("plot", SCREEN, papers.plot, held_out=True),
    Kind("chart", PATTERN, papers.chart),
    Kind("logo", PATTERN, papers.logo, held_out=True),
    Kind("noise", NOISE, photographs.noise),
    Kind("stripes", NOISE, photographs.stripes, held_out=True),
    Kind("blank", BLANK, photographs.blank),
    Kind("hand", BODY, bodies.hand),
    Kind("limb", BODY, bodies.limb),
    Kind("pelvis", BODY, bodies.pelvis),
    Kind("abdomen", BODY, bodies.abdomen),
    Kind("foot", BODY, bodies.foot, held_out=True),
    Kind("skull", BODY, bodies.skull, held_out=True),
    Kind("spine", BODY, bodies.spine, held_out=True),
    Kind("lateral", LATERAL, bodies.lateral),
    Kind("CT", MACHINE, slices.ct),
    Kind("MR", MACHINE, slices.mr),
    Kind("cells", MACHINE, photographs.cells),
    Kind("ultrasound", MACHINE, slices.ultrasound, held_out=True),
    Kind("vessels", MACHINE, slices.vessels, held_out=True),
    Kind("quarter turn", TURNED, spoil=spoilt.quarter_turned),
    Kind("upside down", TURNED, spoil=spoilt.upside_down),
    Kind("inverted", INVERTED, spoil=spoilt.inverted),
    Kind("inverted and turned", INVERTED, spoil=spoilt.inverted_and_turned, held_out=True),
    Kind("cropped", CROPPED, spoil=spoilt.cropped),
    Kind("strip", CROPPED, spoil=spoilt.strip, times=3),
    Kind("corner", CROPPED, spoil=spoilt.cornered, held_out=True),
    Kind("half", CROPPED, spoil=spoilt.half, held_out=True),
    Kind("shrunk", SEVERAL, spoil=spoilt.shrunk),
    Kind("two by two", SEVERAL, spoil=spoilt.tiled(2, 2)),
    Kind("side by side", SEVERAL, spoil=spoilt.tiled(1, 2)),
    Kind("one over the other", SEVERAL, spoil=spoilt.tiled(2, 1)),
    Kind("two by three", SEVERAL, spoil=spoilt.tiled(2, 3), held_out=True),
    Kind("shuffled", WRECKED, spoil=spoilt.shuffled),
    Kind("phases lost", WRECKED, spoil=spoilt.phases_lost),
    Kind("bent", WRECKED, spoil=spoilt.bent),
    Kind("swirled", WRECKED, spoil=spoilt.swirled, held_out=True),
)
