"""Pictures that are no chest films, drawn: photographs, pages, screens, other parts of the body, other machines.

Each function draws one picture of its kind, float32 (side, side), about 0 to 1, from a generator of chance. None is
meant to deceive a person: what counts is that they differ from each other in all the ways in which pictures differ.
"""

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
def grid(side: int) -> tuple[Plane, Plane]:
    """x and y of every pixel, 0 to 1; not to be written to."""
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    x.flags.writeable = y.flags.writeable = False
    return x, y


def cloud(rng: Rng, side: int, slope: float) -> Plane:
    """Noise from 0 to 1 whose amplitude falls with frequency to the power of `slope`; that of landscapes is near 1."""
    waves = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    waves[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((side, side))) / waves**slope
    return stretched(np.fft.irfft2(spectrum, (side, side)))


def stretched(x: NDArray[np.floating]) -> Plane:
    """From 0 to 1, the outermost percent cut off."""
    low, high = np.percentile(x, (1, 99))
    return np.clip((x - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)


def blurred(x: Plane, radius: float) -> Plane:
    """By a Gaussian of `radius` pixels, in 256 grays from 0 to 1."""
    image = Image.fromarray(np.round(np.clip(x, 0, 1) * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), np.float32) / 255


def painted(side: int, paint: Callable[[ImageDraw.ImageDraw], object]) -> Plane:
    """What a brush leaves on black, 255 being 1."""
    image = Image.new("L", (side, side))
    paint(ImageDraw.Draw(image))
    return np.asarray(image, np.float32) / 255


def ellipse(side: int, at: Point, reach: Point, angle: float = 0.0, soft: float = 0.02) -> Plane:
    """1 inside, 0 outside, over an edge of about `soft`."""
    x, y = grid(side)
    x, y = x - at[0], y - at[1]
    cos, sin = np.cos(angle), np.sin(angle)
    far = np.hypot((cos * x + sin * y) / reach[0], (cos * y - sin * x) / reach[1])
    inside: Plane = 1 / (1 + np.exp(np.clip((far - 1) * min(reach) / soft * 4, -50, 50)))
    return inside


def _along(side: int, start: Point, end: Point) -> tuple[Plane, Plane]:
    """Of every pixel: how far along the line from start to end it lies, 0 to 1, and how far off that line."""
    x, y = grid(side)
    wide, high = end[0] - start[0], end[1] - start[1]
    share = np.clip(((x - start[0]) * wide + (y - start[1]) * high) / max(wide**2 + high**2, 1e-9), 0, 1)
    return share, np.hypot(x - start[0] - share * wide, y - start[1] - share * high)


def _flesh(side: int, start: Point, end: Point, thick: float) -> Plane:
    """The shadow of a limb: round, so fainter towards its edges."""
    _, off = _along(side, start, end)
    return np.sqrt(np.clip(1 - (off / thick) ** 2, 0, 1))


def _bone(side: int, start: Point, end: Point, thick: float, ends: float = 1.5) -> Plane:
    """A shaft with bright rims and wider ends."""
    share, off = _along(side, start, end)
    near = off / (thick * (1 + (ends - 1) * np.abs(2 * share - 1) ** 6))
    bone: Plane = np.exp(-(near**6)) * (0.6 + 0.4 * np.clip(near, 0, 1) ** 2)
    return bone


def _turned(at: Point, by: float, far: float) -> Point:
    """The point that lies `far` from `at`; `by` 0 is upwards, in radians clockwise."""
    return at[0] + far * np.sin(by), at[1] - far * np.cos(by)


# Photographs


def scene(rng: Rng, side: int) -> Plane:
    """Any number of things of any shape and surface before each other: no scene in particular."""
    picture = _surface(rng, side)
    for _ in range(rng.integers(2, 25)):
        mask = blurred(painted(side, _shape(rng, side, rng.uniform(0.05, 0.5))), rng.exponential(1.2))
        shade = _surface(rng, side) if rng.random() < 0.7 else rng.random()
        picture = picture + mask * rng.uniform(0.4, 1) * (shade - picture)
    return picture


def _surface(rng: Rng, side: int) -> Plane:
    """A texture under a light from somewhere."""
    x, y = grid(side)
    angle = rng.uniform(0, 2 * np.pi)
    light = rng.random() + rng.normal(0, 0.4) * (np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5))
    rough = cloud(rng, side, rng.uniform(0.3, 2)) - 0.5
    if rng.random() < 0.2:
        rough = np.sin((np.cos(angle) * x + np.sin(angle) * y) * rng.uniform(20, 200)) * 0.5 + rough
    return (light + rng.exponential(0.25) * rough).astype(np.float32)


def _shape(rng: Rng, side: int, size: float) -> Callable[[ImageDraw.ImageDraw], object]:
    x, y = rng.uniform(-0.1, 1.1, 2) * side
    wide, high = size * side * np.exp(rng.normal(0, 0.4, 2))
    kind = rng.integers(4)
    if kind == 0:
        return lambda brush: brush.ellipse((x - wide, y - high, x + wide, y + high), fill=255)
    if kind == 1:
        return lambda brush: brush.rectangle((x - wide, y - high, x + wide, y + high), fill=255)
    if kind == 2:
        ends = [tuple(end) for end in rng.uniform(0, side, (rng.integers(2, 5), 2))]
        return lambda brush: brush.line(ends, fill=255, width=int(rng.integers(1, 9)))
    angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 9)))
    return lambda brush: brush.polygon([(x + wide * np.cos(a), y + high * np.sin(a)) for a in angles], fill=255)


def thing(rng: Rng, side: int) -> Plane:
    """One thing in the middle, its two sides alike as those of a chest are, before an even ground."""
    (_, y), ground = grid(side), rng.choice([0.0, 1.0, rng.random()])
    picture = np.full((side, side), ground, np.float32)
    for _ in range(rng.integers(2, 10)):
        at = rng.uniform(0, 0.35), rng.uniform(0.15, 0.85)
        reach, angle = tuple(rng.uniform(0.03, 0.3, 2)), rng.uniform(0, np.pi)
        soft, shade = rng.choice([0.005, 0.02, 0.08]), rng.random() + rng.normal(0, 0.6) * (y - 0.5)
        if rng.random() < 0.3:
            shade = shade + 0.3 * (cloud(rng, side, rng.uniform(0.5, 1.5)) - 0.5)
        for left in (-1, 1):
            mask = ellipse(side, (0.5 + left * at[0], at[1]), reach, left * angle, soft)
            picture = picture + mask * (shade - picture)
    return picture.astype(np.float32)


def landscape(rng: Rng, side: int) -> Plane:
    """Sky, ridges one behind the other, and trees."""
    _, y = grid(side)
    picture = rng.uniform(0.6, 1) - rng.uniform(0, 0.4) * y + 0.3 * (cloud(rng, side, 1.7) - 0.5)
    horizon = rng.uniform(0.25, 0.6)
    for depth in range(int(rng.integers(1, 5))):
        line = horizon + 0.12 * depth + rng.uniform(0.05, 0.4) * (cloud(rng, side, 1.5)[0] - 0.5)
        ground = rng.uniform(0.1, 0.7) + rng.uniform(0.1, 0.6) * (cloud(rng, side, rng.uniform(0.4, 1.3)) - 0.5)
        picture = np.where(y > line, ground, picture)
    for _ in range(rng.integers(0, 6)):
        foot = rng.uniform(0, 1), rng.uniform(0.5, 1)
        crown = ellipse(side, (foot[0], foot[1] - 0.25), (rng.uniform(0.05, 0.15), 0.2), soft=0.03)
        crown = crown * (cloud(rng, side, 0.7) > 0.4)
        tree = np.maximum(crown, _flesh(side, foot, (foot[0], foot[1] - 0.2), 0.015) > 0)
        picture = picture * (1 - tree) + tree * rng.uniform(0.05, 0.4)
    return picture.astype(np.float32)


def portrait(rng: Rng, side: int) -> Plane:
    """A head with hair, eyes and mouth on shoulders, lit from one side."""
    picture, (x, y) = _surface(rng, side), (rng.uniform(0.35, 0.65), rng.uniform(0.3, 0.5))
    size, skin = rng.uniform(0.12, 0.28), rng.uniform(0.35, 0.9)
    light = skin + rng.normal(0, 0.5) * (grid(side)[0] - x)
    parts: list[tuple[Plane, Plane | float]] = [
        (ellipse(side, (x, y + 2.3 * size), (1.9 * size, 1.2 * size)), rng.random()),
        (ellipse(side, (x, y - 0.25 * size), (1.1 * size, 1.3 * size)), rng.uniform(0, 0.9)),
        (ellipse(side, (x, y + 0.1 * size), (0.8 * size, 1.1 * size)), light),
        (ellipse(side, (x, y + 0.65 * size), (0.3 * size, 0.08 * size), soft=0.01), skin * 0.5),
        (ellipse(side, (x, y + 0.3 * size), (0.1 * size, 0.2 * size), soft=0.02), skin * 0.8),
    ]
    for left in (-1, 1):
        parts += [(ellipse(side, (x + left * 0.35 * size, y - 0.1 * size), (0.15 * size, 0.09 * size)), skin * 0.3)]
    for mask, shade in parts:
        picture = picture + mask * (shade - picture)
    return (picture + 0.1 * (cloud(rng, side, 0.8) - 0.5)).astype(np.float32)


def street(rng: Rng, side: int) -> Plane:
    """House fronts with rows of windows, a road, things on it."""
    x, y = grid(side)
    picture = np.full((side, side), rng.uniform(0.6, 1), np.float32)
    left = -0.1
    while left < 1:
        right, top = left + rng.uniform(0.15, 0.5), rng.uniform(0.05, 0.5)
        house = (x > left) & (x < right) & (y > top)
        every, tall = rng.uniform(0.04, 0.12), rng.uniform(0.06, 0.15)
        windows = house & ((x - left) % every > every * 0.4) & ((y - top) % tall > tall * 0.5)
        wall = rng.uniform(0.2, 0.9)
        picture = np.where(windows, wall * rng.uniform(0.2, 0.7), np.where(house, wall, picture))
        left = right + rng.choice([0, 0.05])
    picture = np.where(y > rng.uniform(0.7, 0.85), rng.uniform(0.2, 0.6), picture)
    for _ in range(rng.integers(0, 5)):
        car = painted(side, _shape(rng, side, 0.06)) * (y > 0.6)
        picture = picture + car * (rng.random() - picture)
    return (picture + rng.uniform(0.05, 0.3) * (cloud(rng, side, 0.8) - 0.5)).astype(np.float32)


def animal(rng: Rng, side: int) -> Plane:
    """A body with head, legs and a coat, in grass."""
    picture = cloud(rng, side, rng.uniform(0.3, 1.2)) * rng.uniform(0.3, 1)
    coat = np.sin(cloud(rng, side, 1.8) * rng.uniform(5, 60)) * 0.3 + rng.uniform(0.3, 0.7)
    at, long = (rng.uniform(0.35, 0.65), rng.uniform(0.4, 0.6)), rng.uniform(0.15, 0.3)
    body = ellipse(side, at, (long, 0.55 * long))
    head = ellipse(side, (at[0] + long, at[1] - 0.5 * long), (0.45 * long, 0.35 * long), rng.uniform(-1, 1))
    legs = [_flesh(side, (at[0] + d * long, at[1]), (at[0] + d * long, at[1] + long), 0.03) > 0 for d in (-0.7, 0.6)]
    mask = np.maximum.reduce([body, head, *legs])
    return (picture + mask * (coat - picture)).astype(np.float32)


# Pages and screens


def page(rng: Rng, side: int) -> Plane:
    """Paragraphs in columns, headings, now and then a picture."""
    paper, ink = rng.uniform(0.75, 1), rng.uniform(0, 0.3)
    size, columns = rng.uniform(0.02, 0.07) * side, int(rng.integers(1, 4))

    def write(brush: ImageDraw.ImageDraw) -> None:
        for column in range(columns):
            left, top = (0.06 + 0.9 * column / columns) * side, rng.uniform(0.03, 0.3) * side
            while top < 0.95 * side:
                if rng.random() < 0.85:
                    _write(brush, rng, (left, top), size, 0.82 * side / columns * rng.uniform(0.5, 1))
                elif rng.random() < 0.3:
                    high = rng.uniform(0.05, 0.3) * side
                    brush.rectangle((left, top, left + 0.8 * side / columns, top + high), fill=int(rng.integers(255)))
                    top += high
                top += size * 1.35

    return (paper + painted(side, write) * (ink - paper)).astype(np.float32)


def _write(brush: ImageDraw.ImageDraw, rng: Rng, at: Point, size: float, wide: float) -> None:
    words = ["".join(rng.choice(list(LETTERS), rng.integers(1, 10))) for _ in range(max(int(wide / size / 3), 1))]
    brush.text(at, " ".join(words), fill=255, font=ImageFont.load_default(max(size, 4)))


def form(rng: Rng, side: int) -> Plane:
    """A ruled table, some of its cells filled in, and a bar code."""
    rows, columns = int(rng.integers(4, 16)), int(rng.integers(1, 7))

    def rule(brush: ImageDraw.ImageDraw) -> None:
        for row in range(rows + 1):
            high = (0.05 + 0.75 * row / rows) * side
            brush.line([(0.05 * side, high), (0.95 * side, high)], fill=255)
            for column in range(columns):
                if rng.random() < 0.6:
                    left = (0.07 + 0.9 * column / columns) * side
                    _write(brush, rng, (left, high), 0.5 * side / rows, 0.5 * side / columns)
        for bar in np.cumsum(rng.uniform(0.005, 0.03, 20)) + 0.1:
            brush.rectangle((bar * side, 0.85 * side, (bar + rng.uniform(0.002, 0.012)) * side, 0.95 * side), fill=255)

    return 1 - rng.uniform(0.6, 1) * painted(side, rule)


def handwriting(rng: Rng, side: int) -> Plane:
    """Loops of a pen, line after line."""

    def scrawl(brush: ImageDraw.ImageDraw) -> None:
        for top in np.arange(0.08, 0.95, rng.uniform(0.05, 0.12)):
            t = np.linspace(0, rng.uniform(20, 80), 400)
            x = 0.05 + np.linspace(0, rng.uniform(0.4, 0.9), 400) + 0.012 * np.cos(t)
            y = top + 0.018 * np.sin(t + np.cumsum(rng.normal(0, 0.1, 400)))
            brush.line(list(zip(x * side, y * side, strict=True)), fill=255, width=int(rng.integers(1, 3)))

    return rng.uniform(0.8, 1) - rng.uniform(0.5, 0.8) * painted(side, scrawl)


def screen(rng: Rng, side: int) -> Plane:
    """Windows with bars, buttons and text, light or dark."""
    dark = rng.random() < 0.5

    def draw(brush: ImageDraw.ImageDraw) -> None:
        for _ in range(rng.integers(1, 6)):
            x, y, wide, high = rng.uniform(0, 0.6), rng.uniform(0, 0.6), rng.uniform(0.2, 0.9), rng.uniform(0.2, 0.9)
            box = tuple(side * edge for edge in (x, y, x + wide, y + high))
            brush.rectangle(box, fill=int(rng.integers(0, 120)), outline=int(rng.integers(100, 255)))
            brush.rectangle((box[0], box[1], box[2], box[1] + 0.05 * side), fill=int(rng.integers(60, 255)))
            for line in np.arange(y + 0.08, y + high, rng.uniform(0.04, 0.09)):
                if rng.random() < 0.7:
                    _write(
                        brush, rng, ((x + 0.03) * side, line * side), 0.035 * side, wide * side * rng.uniform(0.2, 1)
                    )
                else:
                    brush.rounded_rectangle(
                        (
                            (x + 0.03) * side,
                            line * side,
                            (x + wide * rng.uniform(0.2, 1)) * side,
                            (line + 0.035) * side,
                        ),
                        radius=3,
                        fill=int(rng.integers(60, 255)),
                    )

    shown = painted(side, draw)
    return shown if dark else 1 - shown


def plot(rng: Rng, side: int) -> Plane:
    """Axes with curves, bars or points."""

    def draw(brush: ImageDraw.ImageDraw) -> None:
        brush.line([(0.1 * side, 0.05 * side), (0.1 * side, 0.9 * side), (0.95 * side, 0.9 * side)], fill=255)
        x = np.linspace(0.1, 0.95, int(rng.integers(5, 60)))
        for _ in range(rng.integers(1, 5)):
            y = (
                0.5
                + 0.35 * np.sin(x * rng.uniform(2, 20) + rng.uniform(0, 6)) * rng.random()
                + rng.normal(0, 0.05, len(x))
            )
            ends = list(zip(x * side, y * side, strict=True))
            if rng.random() < 0.5:
                brush.line(ends, fill=int(rng.integers(100, 255)), width=int(rng.integers(1, 4)))
            else:
                for left, top in ends:
                    brush.rectangle((left, min(top, 0.9 * side), left + 4, 0.9 * side), fill=int(rng.integers(60, 255)))
        _write(brush, rng, (0.2 * side, 0.93 * side), 0.04 * side, 0.6 * side)

    return rng.uniform(0.85, 1) - rng.uniform(0.5, 0.85) * painted(side, draw)


def chart(rng: Rng, side: int) -> Plane:
    """Test patterns: fields of gray, checks, rings, wedges."""
    x, y = grid(side)
    many = int(rng.integers(2, 16))
    kind = rng.integers(5)
    if kind == 0:
        fields = rng.random((many, many))
        return fields[(y * many).astype(int), (x * many).astype(int)].astype(np.float32)
    if kind == 1:
        return ((np.floor(x * many) + np.floor(y * many)) % 2).astype(np.float32)
    if kind == 2:
        return (0.5 + 0.5 * np.sin(np.hypot(x - rng.random(), y - rng.random()) * many * 8)).astype(np.float32)
    if kind == 3:
        return np.floor(x * many).astype(np.float32) / many
    return (0.5 + 0.5 * np.sign(np.sin(np.arctan2(y - 0.5, x - 0.5) * many))).astype(np.float32)


def logo(rng: Rng, side: int) -> Plane:
    """One plain mark on a plain ground, a word under it."""
    ground, ink = rng.random(2)
    mark = painted(
        side,
        lambda brush: brush.regular_polygon(
            (side / 2, side * 0.4, side * rng.uniform(0.1, 0.35)), int(rng.integers(3, 9)), fill=255
        ),
    )
    hole = ellipse(side, (0.5, 0.4), (rng.uniform(0.05, 0.2), rng.uniform(0.05, 0.2)), soft=0.005)
    word = painted(side, lambda brush: _write(brush, rng, (0.2 * side, 0.8 * side), 0.12 * side, 0.5 * side))
    return (ground + np.maximum(mark * (1 - hole), word) * (ink - ground)).astype(np.float32)


# Nothing in particular


def noise(rng: Rng, side: int) -> Plane:
    """Snow, pepper and salt, or waves of every length."""
    kind = rng.integers(4)
    if kind == 0:
        return rng.normal(rng.random(), rng.uniform(0.05, 0.5), (side, side)).astype(np.float32)
    if kind == 1:
        return (rng.random((side, side)) < rng.uniform(0.02, 0.98)).astype(np.float32)
    if kind == 2:
        many = int(rng.integers(4, 80))
        small = Image.fromarray(rng.random((many, many)).astype(np.float32))
        return np.asarray(small.resize((side, side), Image.Resampling.BICUBIC))
    return cloud(rng, side, rng.uniform(0, 2.5))


def stripes(rng: Rng, side: int) -> Plane:
    """Lines of chance along one axis, as a broken detector gives."""
    lines = np.repeat(rng.random((side, 1)), side, axis=1).astype(np.float32)
    picture = lines if rng.random() < 0.5 else lines.T
    return picture * rng.uniform(0.3, 1) + rng.uniform(0, 0.3) * cloud(rng, side, rng.uniform(0, 2))


def blank(rng: Rng, side: int) -> Plane:
    """One gray, or one that changes slowly, with hardly any grain."""
    x, y = grid(side)
    slope = rng.normal(0, 0.3, 2) * (rng.random() < 0.7)
    bow = rng.normal(0, 0.8) * ((x - rng.random()) ** 2 + (y - rng.random()) ** 2) * (rng.random() < 0.5)
    flat = rng.random() + slope[0] * (x - 0.5) + slope[1] * (y - 0.5) + bow
    return (flat + rng.normal(0, rng.uniform(0, 0.03), (side, side))).astype(np.float32)


# Other parts of the body


def _exposed(tissue: Plane, bone: Plane, rng: Rng) -> Plane:
    """The film of what lies in the beam, with its grain."""
    shadow = rng.uniform(0.5, 1.2) * tissue + rng.uniform(0.7, 1.6) * bone
    shadow = shadow * (1 + 0.15 * (cloud(rng, len(shadow), 1.2) - 0.5))
    film = 1 - np.exp(-rng.uniform(0.8, 1.8) * shadow)
    return (film + rng.normal(0, rng.uniform(0.005, 0.03), film.shape)).astype(np.float32)


def hand(rng: Rng, side: int) -> Plane:
    wrist, size, lean = (rng.uniform(0.4, 0.6), rng.uniform(0.75, 0.95)), rng.uniform(0.3, 0.45), rng.normal(0, 0.3)
    palm = _turned(wrist, lean, 0.45 * size)
    tissue = [
        ellipse(side, palm, (0.42 * size, 0.5 * size), lean),
        _flesh(side, wrist, _turned(wrist, lean + np.pi, 0.5), 0.1),
    ]
    bones = [_bone(side, wrist, _turned(wrist, lean + np.pi + turn, 0.5), 0.03) for turn in (-0.12, 0.12)]
    for finger, long in zip((-0.75, -0.3, -0.05, 0.2, 0.45), (0.8, 1.05, 1.15, 1.05, 0.85), strict=True):
        at = _turned(wrist, lean + finger, 0.15 * size)
        for share in (0.45, 0.3, 0.2, 0.15):
            tip = _turned(at, lean + finger * 0.9, share * long * size)
            bones.append(_bone(side, at, tip, 0.035 * size))
            tissue.append(_flesh(side, at, tip, 0.085 * size))
            at = _turned(tip, lean + finger, 0.02 * size)
    return _exposed(np.maximum.reduce(tissue), np.maximum.reduce(bones), rng)


def limb(rng: Rng, side: int) -> Plane:
    """Long bones that meet at a joint: knee, elbow, ankle or shoulder, or between two of them."""
    joint, lean = (rng.uniform(0.3, 0.7), rng.uniform(0.1, 0.9)), rng.uniform(0, np.pi)
    bend, thick = rng.normal(0, 0.5), rng.uniform(0.1, 0.25)
    tissue, bones = [], []
    for way, pair in ((lean, rng.random() < 0.4), (lean + np.pi + bend, rng.random() < 0.7)):
        tissue.append(_flesh(side, joint, _turned(joint, way, 1.2), thick))
        for off in (-0.35, 0.35) if pair else (0.0,):
            start = _turned(_turned(joint, way, 0.03), way + np.pi / 2, off * thick)
            bones.append(
                _bone(side, start, _turned(start, way, rng.uniform(0.5, 1.2)), thick * (0.22 if pair else 0.33), 1.8)
            )
    return _exposed(np.maximum.reduce(tissue), np.maximum.reduce(bones), rng)


def foot(rng: Rng, side: int) -> Plane:
    """From the side: heel, arch, toes, and the leg above."""
    heel, way = (rng.uniform(0.2, 0.3), rng.uniform(0.65, 0.8)), rng.choice([-1.0, 1.0])
    ankle, toes = (heel[0] + 0.12, heel[1] - 0.15), (heel[0] + rng.uniform(0.5, 0.65), heel[1] + 0.05)
    tissue = [
        _flesh(side, heel, toes, 0.1),
        _flesh(side, ankle, (ankle[0], -0.2), 0.12),
        ellipse(side, heel, (0.13, 0.11)),
    ]
    bones = [_bone(side, (ankle[0] + off, ankle[1] - 0.05), (ankle[0] + off, -0.2), 0.045) for off in (-0.04, 0.03)]
    bones += [ellipse(side, heel, (0.12, 0.08)), ellipse(side, (ankle[0] + 0.04, ankle[1] + 0.04), (0.1, 0.06), 0.4)]
    bones += [
        _bone(side, (ankle[0] + 0.15, ankle[1] + 0.1 + off), (toes[0], toes[1] + off / 2), 0.02) for off in (0, 0.05)
    ]
    film = _exposed(np.maximum.reduce(tissue), np.maximum.reduce(bones), rng)
    return film if way > 0 else film[:, ::-1]


def skull(rng: Rng, side: int) -> Plane:
    """From the front or from the side: vault, orbits or base, jaw, teeth."""
    at, wide, high = (0.5, rng.uniform(0.38, 0.45)), rng.uniform(0.26, 0.38), rng.uniform(0.3, 0.38)
    outer, inner = ellipse(side, at, (wide, high)), ellipse(side, at, (wide * 0.93, high * 0.93))
    bone = outer - 0.65 * inner + 0.2 * ellipse(side, (0.5, at[1] + 0.3), (wide * 0.65, 0.2))
    for left in (-1, 1):
        bone = bone - 0.25 * ellipse(side, (0.5 + left * 0.4 * wide, at[1] + 0.12), (0.3 * wide, 0.07))
    bone = bone + 0.5 * _bone(side, (0.5 - wide * 0.5, at[1] + 0.38), (0.5 + wide * 0.5, at[1] + 0.38), 0.03)
    x, y = grid(side)
    teeth = (np.sin(x * 120) > -0.3) * (np.abs(y - at[1] - 0.32) < 0.03) * (np.abs(x - 0.5) < wide * 0.4)
    neck = _flesh(side, (0.5, 0.8), (0.5, 1.2), 0.2)
    return _exposed(np.maximum(0.5 * outer, 0.6 * neck), np.clip(bone + 0.4 * teeth, 0, None), rng)


def pelvis(rng: Rng, side: int) -> Plane:
    """Iliac wings, sacrum, the ring, and the heads of the femurs."""
    top, x, y = rng.uniform(0.1, 0.3), *grid(side)
    bone = 0.6 * _bone(side, (0.5, -0.1), (0.5, top + 0.3), 0.06)
    for left in (-1, 1):
        bone = np.maximum(bone, ellipse(side, (0.5 + left * 0.22, top + 0.2), (0.12, 0.22), left * 0.5) * 0.8)
        ring = ellipse(side, (0.5 + left * 0.12, top + 0.52), (0.1, 0.13), left * 0.4)
        bone = np.maximum(bone, ring - 0.8 * ellipse(side, (0.5 + left * 0.12, top + 0.52), (0.06, 0.08), left * 0.4))
        hip = (0.5 + left * 0.28, top + 0.43)
        bone = np.maximum(bone, ellipse(side, hip, (0.065, 0.065)))
        bone = np.maximum(bone, _bone(side, (hip[0] + left * 0.05, hip[1] + 0.06), (hip[0] + left * 0.02, 1.3), 0.05))
    tissue = np.clip(1.1 - np.abs(x - 0.5) * rng.uniform(1, 2), 0, 1)
    return _exposed(tissue, bone - 0.15 * (cloud(rng, side, 1.5) > 0.75) * (y < 0.6), rng)


def abdomen(rng: Rng, side: int) -> Plane:
    """Trunk without lungs: spine, gas in the bowel, the top of the pelvis, the lowest ribs."""
    x, y = grid(side)
    tissue = np.clip(1.2 - (np.abs(x - 0.5) / rng.uniform(0.4, 0.6)) ** 4, 0, 1)
    bone = 0.7 * _bone(side, (0.5, -0.2), (0.5, rng.uniform(0.7, 0.9)), 0.05, 1) * (0.7 + 0.3 * np.sin(y * 60))
    for left in (-1, 1):
        bone = np.maximum(bone, 0.7 * ellipse(side, (0.5 + left * 0.27, 0.9), (0.15, 0.2), left * 0.6))
        for rib in range(int(rng.integers(0, 4))):
            bone = np.maximum(bone, 0.4 * _bone(side, (0.5, 0.08 * rib), (0.5 + left * 0.4, 0.1 + 0.1 * rib), 0.012))
    gas = np.zeros((side, side), np.float32)
    for _ in range(rng.integers(2, 18)):
        at = rng.uniform(0.2, 0.8), rng.uniform(0.15, 0.8)
        gas = np.maximum(gas, ellipse(side, at, (rng.uniform(0.02, 0.1), rng.uniform(0.02, 0.07)), rng.uniform(0, 3)))
    return _exposed(tissue * (1 - rng.uniform(0.3, 0.7) * gas), bone, rng)


def spine(rng: Rng, side: int) -> Plane:
    """A column of vertebrae with discs between them, from the side."""
    x, y = grid(side)
    middle = 0.5 + rng.normal(0, 0.15) * np.sin((y - rng.random()) * rng.uniform(2, 5))
    wide, tall = rng.uniform(0.07, 0.14), rng.uniform(0.09, 0.18)
    bodies = (np.abs(x - middle) < wide) * ((y % tall) > 0.2 * tall)
    spikes = 0.5 * (x - middle > wide * 1.3) * (x - middle < wide * 2.5) * (((y + 0.3 * x) % tall) > 0.55 * tall)
    bone = blurred((bodies + spikes).astype(np.float32), 1.5)
    return _exposed(np.clip(1.2 - np.abs(x - 0.45) * 1.6, 0, 1), bone, rng)


def lateral(rng: Rng, side: int) -> Plane:
    """A chest from the side: one lung field between spine and breastbone, heart in front, no symmetry."""
    x, y = grid(side)
    back = 0.75 + 0.08 * np.sin(3 * y) + rng.normal(0, 0.02)
    tissue = ellipse(side, (0.5, 0.6), (rng.uniform(0.36, 0.48), 0.62)) * rng.uniform(0.8, 1)
    lung = ellipse(side, (0.53, 0.45), (rng.uniform(0.22, 0.28), rng.uniform(0.3, 0.38)), rng.uniform(-0.2, 0.2), 0.05)
    dome = blurred((y > rng.uniform(0.65, 0.75) + 0.5 * (x - 0.5) ** 2 + 0.15 * (x - 0.3)).astype(np.float32), 2)
    heart = ellipse(side, (rng.uniform(0.36, 0.42), 0.58), (0.13, 0.17), 0.5, 0.06)
    column = blurred(((np.abs(x - back) < 0.06) * ((y % 0.09) > 0.02)).astype(np.float32), 1.5)
    ribs = 0.25 * (np.sin((y + 0.35 * x) * 70) > 0.7) * tissue
    shadow = tissue * (1 - 0.75 * lung * (1 - dome)) + 0.4 * heart
    film = _exposed(shadow, 0.45 * column + blurred(ribs.astype(np.float32), 1), rng)
    return film if rng.random() < 0.5 else film[:, ::-1]


# Other machines


def ct(rng: Rng, side: int) -> Plane:
    """A slice across the trunk: fat, organs, spine, ribs; lungs in some; the couch under it."""
    at, reach = (0.5, rng.uniform(0.45, 0.55)), (rng.uniform(0.3, 0.46), rng.uniform(0.2, 0.35))
    body, inner = ellipse(side, at, reach, soft=0.008), ellipse(side, at, (reach[0] * 0.9, reach[1] * 0.88), soft=0.01)
    slice_ = body * rng.uniform(0.2, 0.45) + inner * rng.uniform(0.1, 0.3)
    lungs = rng.random() < 0.5
    for _ in range(0 if lungs else int(rng.integers(2, 14))):
        where = at[0] + rng.normal(0, 0.35) * reach[0], at[1] + rng.normal(0, 0.35) * reach[1]
        organ = ellipse(side, where, tuple(rng.uniform(0.03, 0.15, 2)), rng.uniform(0, 3), 0.01)
        slice_ = slice_ + inner * organ * rng.normal(0, 0.15)
    for left in (-1, 1):
        air = ellipse(side, (at[0] + left * 0.45 * reach[0], at[1] - 0.02), (0.35 * reach[0], 0.6 * reach[1]), 0, 0.01)
        slice_ = slice_ * (1 - 0.9 * air * lungs)
    for angle in np.linspace(0, 2 * np.pi, int(rng.integers(6, 20))):
        rib = (at[0] + 0.93 * reach[0] * np.cos(angle), at[1] + 0.91 * reach[1] * np.sin(angle))
        slice_ = slice_ + rng.uniform(0.2, 0.6) * ellipse(side, rib, (0.025, 0.01), angle + np.pi / 2, 0.006)
    slice_ = slice_ + 0.6 * ellipse(side, (at[0], at[1] + 0.65 * reach[1]), (0.05, 0.06), soft=0.01)
    couch = ellipse(side, (0.5, 0.6), (0.48, 0.35), soft=0.004) - ellipse(side, (0.5, 0.59), (0.48, 0.35), soft=0.004)
    grain = rng.normal(0, rng.uniform(0.005, 0.06), (side, side))
    return (slice_ + 0.3 * couch * (rng.random() < 0.5) + body * grain).astype(np.float32)


def mr(rng: Rng, side: int) -> Plane:
    """A slice through a head: scalp, skull, folded cortex, ventricles."""
    at, reach = tuple(rng.uniform(0.45, 0.55, 2)), (rng.uniform(0.28, 0.4), rng.uniform(0.33, 0.45))
    scalp, gap = ellipse(side, at, reach, soft=0.01), ellipse(side, at, (0.94 * reach[0], 0.95 * reach[1]), soft=0.01)
    brain = ellipse(side, at, (0.87 * reach[0], 0.88 * reach[1]), soft=0.012)
    folds = np.sin(cloud(rng, side, rng.uniform(1, 1.6)) * rng.uniform(15, 50))
    tissue = rng.uniform(0.3, 0.7) + rng.uniform(0.05, 0.2) * folds
    slice_ = scalp * rng.uniform(0.4, 0.9) * (1 - gap) + brain * tissue
    for left in (-1, 1):
        room = ellipse(
            side, (at[0] + left * 0.05, at[1]), (rng.uniform(0.02, 0.05), rng.uniform(0.06, 0.12)), left * 0.3
        )
        slice_ = slice_ + room * brain * rng.uniform(-0.5, 0.5)
    cleft = ellipse(side, at, (0.006, reach[1]), soft=0.006)
    return (slice_ - 0.3 * cleft * brain + rng.normal(0, 0.02, (side, side))).astype(np.float32)


def ultrasound(rng: Rng, side: int) -> Plane:
    """A fan of speckle on black, dark where there is fluid, with writing at its edge."""
    x, y = grid(side)
    far, angle = np.hypot(x - 0.5, y + 0.1), np.arctan2(x - 0.5, y + 0.1)
    fan = (np.abs(angle) < rng.uniform(0.4, 0.75)) * (far > 0.2) * (far < rng.uniform(0.85, 1.05))
    speckle = rng.rayleigh(0.3, (side, side)) * (0.2 + cloud(rng, side, 1.3))
    fluid = cloud(rng, side, 1.9) < rng.uniform(0.2, 0.4)
    layers = 0.6 + 0.4 * np.sin(far * rng.uniform(10, 60) + 4 * cloud(rng, side, 1.8))
    text = painted(side, lambda brush: _write(brush, rng, (3, 3), 0.05 * side, 0.4 * side))
    return np.maximum(blurred((fan * speckle * layers * (1 - 0.8 * fluid)).astype(np.float32), 0.7), text)


def vessels(rng: Rng, side: int) -> Plane:
    """A tree of vessels on an even ground: an angiogram, or the back of an eye where the ground is round."""

    def draw(brush: ImageDraw.ImageDraw) -> None:
        waiting = [
            ((0.5, rng.random()), rng.uniform(0, 2 * np.pi), rng.uniform(2, 7)) for _ in range(rng.integers(2, 7))
        ]
        while waiting:
            at, way, thick = waiting.pop()
            while thick > 0.8:
                ahead = _turned(at, way, 0.03)
                ends = [(end[0] * side, end[1] * side) for end in (at, ahead)]
                brush.line(ends, fill=255, width=max(round(thick), 1))
                if rng.random() < 0.2:
                    waiting.append((ahead, way + rng.choice([-0.7, 0.7]), thick * 0.6))
                at, way, thick = ahead, way + rng.normal(0, 0.2), thick * 0.95

    ground = rng.uniform(0.4, 0.8) + 0.3 * (cloud(rng, side, 1.8) - 0.5)
    if rng.random() < 0.5:
        ground = ground * ellipse(side, (0.5, 0.5), (0.46, 0.46), soft=0.01)
    return (ground * (1 - rng.uniform(0.2, 0.7) * blurred(painted(side, draw), 0.6))).astype(np.float32)


def cells(rng: Rng, side: int) -> Plane:
    """Round things by the dozen under a microscope, or coins, or stones."""
    picture = rng.random() + 0.2 * (cloud(rng, side, 1.5) - 0.5)
    size = rng.uniform(0.015, 0.08)
    for _ in range(rng.integers(10, 60)):
        at, reach = tuple(rng.random(2)), tuple(size * np.exp(rng.normal(0, 0.3, 2)))
        cell = ellipse(side, at, reach, rng.uniform(0, 3), 0.01)
        core = ellipse(side, at, (0.4 * reach[0], 0.4 * reach[1]), 0, 0.01)
        picture = picture + cell * rng.normal(0, 0.15) - core * rng.uniform(0, 0.3)
    return picture.astype(np.float32)
