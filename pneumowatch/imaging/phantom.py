"""Draw phantom images: chests of children for the demo and for tests. None is made from a patient's image.

An image is a sum of soft shapes, like the projection of an x-ray: body, minus lungs, plus heart, spine, ribs, vessels.
Their coordinates are u, to the image's right, and v, downwards: an image of 4:3 shows u from -2/3 to 2/3 and v from 0
to 1, with the spine at u = 0. The left of the patient is on the right of the image, as is customary.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from pneumowatch.imaging.reader import Pixels

FloatPlane = NDArray[np.floating]

PHANTOM_SOURCE: Final = "synthetic"  # the inbox of phantoms, which are never used for training
JPEG_QUALITY: Final = 90
RIBS: Final = 10
# Width and height in pixels; enlarged afterwards, as the shapes are soft and this is four times faster.
DRAWING_SIZE: Final = (640, 480)


@dataclass(frozen=True)
class ChildAnatomy:
    """The anatomy that differs between children; lengths in units of the image's height."""

    spine_bend: float
    cage: float  # half width of the rib cage at its widest
    apex: float  # v of the top of the lungs
    domes: tuple[float, float]  # v of the tops of the two halves of the diaphragm, left in the image first
    heart: float  # how far it reaches into the left lung
    apex_beat: float  # v where it does
    rib_drop: float  # how far a rib descends from the spine to the flank
    rib_contrast: float
    aeration: float  # how much darker air is than tissue
    exposure: float  # exponent of the tone curve

    @classmethod
    def sample(cls, rng: np.random.Generator) -> "ChildAnatomy":
        dome = rng.uniform(0.70, 0.76)
        return cls(
            spine_bend=rng.uniform(-0.012, 0.012),
            cage=rng.uniform(0.37, 0.42),
            apex=rng.uniform(0.13, 0.17),
            domes=(dome, dome + rng.uniform(0.005, 0.03)),
            heart=rng.uniform(0.125, 0.165),
            apex_beat=rng.uniform(0.62, 0.66),
            rib_drop=rng.uniform(0.10, 0.15),
            rib_contrast=rng.uniform(0.12, 0.16),
            aeration=rng.uniform(0.38, 0.46),
            exposure=rng.uniform(0.9, 1.25),
        )


def draw_phantom(seed: int, pneumonia: bool, width: int = 1024, height: int = 768) -> Pixels:
    """Draw one frontal chest image.

    Args:
        seed: of the child, 0 or more; the same child can be drawn healthy and with pneumonia.
        pneumonia: whether to add two to four consolidations.
        width, height: in pixels; any other ratio than 4:3 distorts the chest.

    Returns:
        uint8 array of shape (height, width), 0 black. On one machine the same arguments give the same pixels.
    """
    anatomy, illness, grain = (np.random.default_rng([seed, part]) for part in range(3))
    shadow = Image.fromarray(_shadow(anatomy, illness if pneumonia else None))
    pixels = np.asarray(shadow.resize((width, height), Image.Resampling.BICUBIC))
    pixels = pixels + grain.normal(0, 0.022, pixels.shape) * np.sqrt(np.clip(pixels, 0.02, 1))
    image = Image.fromarray((np.clip(pixels, 0, 1) * 255).astype(np.uint8))
    return np.asarray(_labelled(image.filter(ImageFilter.GaussianBlur(height / 1500))))


def write_phantoms(folder: Path, count: int, seed: int = 0) -> list[Path]:
    """Write phantoms `seed` + 1 to `seed` + `count` as gray JPEGs, odd numbers healthy and even ones with pneumonia.

    A number always gives the same image. A file appears under its name only when complete, as a watcher may see it.
    """
    paths = []
    for number in range(seed + 1, seed + count + 1):
        pneumonia = number % 2 == 0
        path = folder / f"phantom-{number:04}-{'pneumonia' if pneumonia else 'normal'}.jpeg"
        unfinished = path.with_name(path.name + ".part")
        Image.fromarray(draw_phantom(number, pneumonia)).save(unfinished, "JPEG", quality=JPEG_QUALITY)
        paths.append(unfinished.rename(path))
    return paths


def _shadow(anatomy: np.random.Generator, illness: np.random.Generator | None) -> FloatPlane:
    """Return the image without grain, DRAWING_SIZE, black 0 and white 1."""
    child = ChildAnatomy.sample(anatomy)
    u, v = _plane(anatomy)
    u = u - child.spine_bend * np.sin(4 * v)
    lungs = _lungs(child, u, v)
    heart = _heart(child, u, v)
    shadow = _body(child, u, v) - child.aeration * lungs * (1 + 0.12 * _clouds(anatomy, 6))
    shadow += _vessels(anatomy, u, v) * lungs * (1 - heart)
    shadow += 0.42 * heart + _spine(u, v) + _ribs(child, u, v) + _shoulders(anatomy, u, v)
    if illness:
        shadow += child.aeration * _consolidations(illness, u, v) * lungs
    return ((1 - np.exp(-1.5 * np.clip(shadow, 0, None))) ** child.exposure).astype(np.float32)


def _plane(rng: np.random.Generator) -> tuple[FloatPlane, FloatPlane]:
    """Return u and v of every pixel, for a child that is slightly rotated, scaled and off centre."""
    width, height = DRAWING_SIZE
    v, u = np.mgrid[0:height, 0:width].astype(np.float32)
    u, v = (u / width - 0.5) * 4 / 3, v / height - 0.5
    angle, scale = rng.normal(0, 0.025), rng.uniform(0.94, 1.04)
    shift_u, shift_v = rng.normal(0, 0.015, 2)
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    return cos * u + sin * v + shift_u, cos * v - sin * u + 0.5 + shift_v


def _inside(signed: FloatPlane, softness: float) -> FloatPlane:
    """Return 1 where `signed` is well above zero and 0 well below, with an edge about `softness` wide."""
    return 1 / (1 + np.exp(-np.clip(signed / softness * 4, -50, 50)))


def _band(distance: FloatPlane, half_width: float | FloatPlane) -> FloatPlane:
    """Return 1 on a line and 0 beyond its half width, with the brighter rims of a bone's hard outer layer."""
    near = (distance / half_width) ** 2
    return np.exp(-near * near * near) * (0.65 + 0.35 * near)


def _cage(child: ChildAnatomy, v: FloatPlane) -> FloatPlane:
    """Return the half width of the rib cage at height v."""
    depth = np.clip((v - child.apex) / 0.6, 0, 1.5)
    return child.cage * (1 - 0.55 * np.exp(-3 * depth) - 0.45 * np.exp(-28 * depth)) + 0.02 * depth


def _dome(child: ChildAnatomy, u: FloatPlane) -> FloatPlane:
    """Return v of the diaphragm; the lung is above it."""
    left, right = child.domes
    top = left + (right - left) * _inside(u, 0.1)
    return top + 0.75 * (np.abs(u) - 0.17) ** 2 + 3.5 * np.clip(np.abs(u) - 0.28, 0, None) ** 2


def _body(child: ChildAnatomy, u: FloatPlane, v: FloatPlane) -> FloatPlane:
    """Draw the soft tissue: trunk, neck, and raised arms."""
    out = np.abs(u)
    trunk = child.cage + 0.055 + 0.06 * np.clip(v - 0.6, 0, None) + 0.10 * np.exp(-((v - 0.2) ** 2) / 0.02)
    trunk = _inside(trunk - out, 0.025) * _inside(v - 0.125 + 0.35 * np.clip(out - 0.3, 0, None), 0.03)
    neck = _inside(0.125 + 0.6 * np.clip(v, 0, None) ** 2 * 4 - out, 0.02) * _inside(0.3 - v, 0.05)
    arm = _inside(0.10 - np.abs(out - _humerus(v)), 0.02) * _inside(0.36 - v, 0.12)
    thickness = 0.62 - 0.7 * np.clip(out - 0.1, 0, None) ** 2
    belly = 0.30 * _inside(v - _dome(child, u), 0.015) * _inside(_cage(child, v) + 0.02 - out, 0.1)
    return np.maximum(np.maximum(trunk, neck), 0.8 * arm) * thickness + belly


def _humerus(v: FloatPlane) -> FloatPlane:
    """Return |u| of the middle of the upper arm, which reaches up to the corner of the image."""
    return 0.60 - 0.55 * v


def _lungs(child: ChildAnatomy, u: FloatPlane, v: FloatPlane) -> FloatPlane:
    out = np.abs(u)
    inner = _inside(out - 0.05 - 0.03 * np.exp(-(((v - 0.2) / 0.1) ** 2)), 0.03)
    return (
        _inside(_cage(child, v) - out, 0.02)
        * inner
        * _inside(_dome(child, u) - v, 0.018)
        * _inside(v - child.apex, 0.03)
    )


def _heart(child: ChildAnatomy, u: FloatPlane, v: FloatPlane) -> FloatPlane:
    """Draw the heart, most of it on the right of the image, and the great vessels above it, by their two borders."""
    tip, waist = child.apex_beat, 0.058 - 0.01 * np.tanh((v - 0.3) / 0.05)
    steep = np.where(v < tip, 0.17, 0.12)
    right = waist + child.heart * np.exp(-(np.abs((v - tip) / steep) ** 2.2))
    left = waist + 0.42 * child.heart * np.exp(-(((v - tip + 0.04) / 0.13) ** 2))
    shape = _inside(right - u, 0.022) * _inside(left + u, 0.022)
    return shape * (0.7 + 0.3 * _inside(v - 0.42, 0.2)) * _inside(v - 0.12, 0.12) * (1 - 0.7 * _inside(v - 0.75, 0.07))


def _spine(u: FloatPlane, v: FloatPlane) -> FloatPlane:
    column = _inside(0.047 - np.abs(u), 0.018)
    discs = 0.8 + 0.2 * np.tanh(3 * np.sin(2 * np.pi * v / (0.058 + 0.012 * v)) + 1.5)
    pedicles = np.exp(-(((np.abs(u) - 0.028) / 0.007) ** 2)) * np.clip(
        np.sin(2 * np.pi * v / (0.058 + 0.012 * v)), 0, 1
    )
    windpipe = np.exp(-(((u - 0.006) / 0.02) ** 2)) * _inside(0.36 - v, 0.08)
    return 0.24 * column * discs + 0.07 * pedicles - 0.12 * windpipe


def _ribs(child: ChildAnatomy, u: FloatPlane, v: FloatPlane) -> FloatPlane:
    """Draw the posterior ribs, which descend laterally, and the fainter anterior ones, which descend medially."""
    cage, out = _cage(child, v), np.abs(u)
    outwards = out / child.cage
    within = _inside(cage + 0.012 - out, 0.012) * _inside(out - 0.045, 0.03)
    # brighter at the flank, where a rib turns forward and is seen lengthwise
    edge_on = 1 + 1.2 * np.exp(-(((cage - out) / 0.02) ** 2))
    seen = 1 - 0.6 * _inside(v - _dome(child, u), 0.03)
    back = child.rib_drop * outwards**2 - 0.045 * np.sin(np.pi * np.clip(outwards, 0, 1) ** 0.8)
    front = 0.13 + 0.9 * child.rib_drop - 0.20 * (outwards - 0.5)
    in_front = 0.5 * _inside(outwards - 0.45, 0.3)
    ribs = np.zeros_like(u)
    for number in range(RIBS):
        start = child.apex + 0.02 + 0.07 * number
        ribs = np.maximum(ribs, _band(v - start - back, 0.0135))
        ribs = np.maximum(ribs, in_front * _band(v - start - front, 0.015))
    return child.rib_contrast * ribs * within * edge_on * seen


def _shoulders(rng: np.random.Generator, u: FloatPlane, v: FloatPlane) -> FloatPlane:
    """Draw clavicles, the edges of the shoulder blades, and the bones of the upper arms."""
    height, slope, out = rng.uniform(0.165, 0.195), rng.uniform(0.05, 0.15), np.abs(u)
    line = height - slope * (out - 0.04) - 0.022 * np.sin((out - 0.04) * 15)
    clavicles = _band(v - line, 0.0135) * _inside(out - 0.045, 0.02) * _inside(0.37 - out, 0.03)
    blades = np.exp(-(((out - 0.50 + 0.55 * v) / 0.007) ** 2)) * _inside(v - 0.2, 0.04) * _inside(0.38 - v, 0.06)
    arms = _band(out - _humerus(v), 0.03 + 0.012 * _inside(v - 0.1, 0.05)) * _inside(0.19 - v, 0.02)
    return 0.21 * clavicles + 0.10 * blades + 0.17 * arms


def _vessels(rng: np.random.Generator, u: FloatPlane, v: FloatPlane) -> FloatPlane:
    """Draw branching vessels from the root of each lung, thinner outwards."""
    image = Image.new("L", DRAWING_SIZE)
    draw = ImageDraw.Draw(image)
    for side in (-1, 1):
        for heading in np.linspace(-1.2, 1.35, 11):
            start = complex(side * 0.085, 0.42 + 0.06 * heading)
            _branch(draw, rng, start, side, heading + rng.normal(0, 0.25), 0.009)
    blurred = np.asarray(image.filter(ImageFilter.GaussianBlur(1.6))) / 255
    root = np.exp(-(((np.abs(u) - 0.095) / 0.04) ** 2) - ((v - 0.42) / 0.07) ** 2)
    return 0.15 * blurred + 0.07 * root


def _branch(
    draw: ImageDraw.ImageDraw, rng: np.random.Generator, at: complex, side: int, heading: float, thick: float
) -> None:
    """Draw one vessel until it is too thin to see; `at` is u + iv, `heading` 0 points outwards, `thick` is a width."""
    width, height = DRAWING_SIZE
    while thick > 0.0018:
        ahead = at + 0.018 * complex(side * np.cos(heading), np.sin(heading))
        ends = [((point.real * 0.75 + 0.5) * width, point.imag * height) for point in (at, ahead)]
        draw.line(ends, fill=int(255 * min(1, thick / 0.009)), width=max(1, round(thick * height)))
        if rng.random() < 0.35:
            turn = float(rng.choice((-0.6, 0.6)))
            _branch(draw, rng, ahead, side, heading + turn, thick * 0.65)
        at, heading, thick = ahead, heading + rng.normal(0, 0.18), thick * 0.89


def _consolidations(rng: np.random.Generator, u: FloatPlane, v: FloatPlane) -> FloatPlane:
    """Draw consolidations, lung filled with fluid: blurred, uneven patches that hide the borders they touch."""
    patches = np.zeros_like(u)
    for side in rng.permutation((-1, 1, -1, 1))[: rng.integers(2, 5)]:
        at_u, at_v = side * rng.uniform(0.14, 0.23), rng.uniform(0.38, 0.64)
        reach_u, reach_v = rng.uniform(0.11, 0.17), rng.uniform(0.12, 0.20)
        distance = np.hypot((u - at_u) / reach_u, (v - at_v) / reach_v)
        uneven = 0.7 * _clouds(rng, 10)
        patches = np.maximum(patches, rng.uniform(0.75, 0.95) * _inside(1 - distance + uneven, 0.9))
    return patches


def _clouds(rng: np.random.Generator, cells: int) -> FloatPlane:
    """Draw smooth noise between -1 and 1 in three octaves, the coarsest of `cells` cells a side."""
    total = np.zeros(DRAWING_SIZE[::-1], np.float32)
    for octave in range(3):
        side = cells * 2**octave
        grid = Image.fromarray(rng.uniform(-1, 1, (side, side)).astype(np.float32))
        total += np.asarray(grid.resize(DRAWING_SIZE, Image.Resampling.BICUBIC)) / 2**octave
    return np.clip(total / 1.75, -1, 1)


def _labelled(image: Image.Image) -> Image.Image:
    """Label the image with its side marker and the word PHANTOM, so that nobody takes it for a patient's."""
    draw, unit = ImageDraw.Draw(image), image.height / 30
    draw.text((unit * 1.2, unit * 9), "R", fill=235, font=ImageFont.load_default(unit * 1.6))
    draw.text((unit * 0.6, image.height - unit * 1.4), "PHANTOM", fill=200, font=ImageFont.load_default(unit * 0.7))
    return image
