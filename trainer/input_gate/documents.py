"""Draw pages, screens, plots and charts.

Every function draws one picture, float (side, side), about 0 to 1, from a random generator.
"""

import numpy as np
from PIL import ImageDraw

from trainer.input_gate.drawing import Plane, Rng, ellipse, pixel_grid, random_text, rasterize


def text_page(rng: Rng, side: int) -> Plane:
    """Draw paragraphs in columns, headings, now and then a picture."""
    paper, ink = rng.uniform(0.75, 1), rng.uniform(0, 0.3)
    size, columns = rng.uniform(0.02, 0.07) * side, int(rng.integers(1, 4))

    def write(canvas: ImageDraw.ImageDraw) -> None:
        for column in range(columns):
            left, top = (0.06 + 0.9 * column / columns) * side, rng.uniform(0.03, 0.3) * side
            while top < 0.95 * side:
                if rng.random() < 0.85:
                    random_text(canvas, rng, (left, top), size, 0.82 * side / columns * rng.uniform(0.5, 1))
                elif rng.random() < 0.3:
                    high = rng.uniform(0.05, 0.3) * side
                    canvas.rectangle((left, top, left + 0.8 * side / columns, top + high), fill=int(rng.integers(255)))
                    top += high
                top += size * 1.35

    return (paper + rasterize(side, write) * (ink - paper)).astype(np.float32)


def form(rng: Rng, side: int) -> Plane:
    """Draw a ruled table, some of its cells filled in, and a bar code."""
    rows, columns = int(rng.integers(4, 16)), int(rng.integers(1, 7))

    def rule(canvas: ImageDraw.ImageDraw) -> None:
        for row in range(rows + 1):
            high = (0.05 + 0.75 * row / rows) * side
            canvas.line([(0.05 * side, high), (0.95 * side, high)], fill=255)
            for column in range(columns):
                if rng.random() < 0.6:
                    left = (0.07 + 0.9 * column / columns) * side
                    random_text(canvas, rng, (left, high), 0.5 * side / rows, 0.5 * side / columns)
        for bar in np.cumsum(rng.uniform(0.005, 0.03, 20)) + 0.1:
            canvas.rectangle((bar * side, 0.85 * side, (bar + rng.uniform(0.002, 0.012)) * side, 0.95 * side), fill=255)

    return 1 - rng.uniform(0.6, 1) * rasterize(side, rule)


def handwriting(rng: Rng, side: int) -> Plane:
    """Draw loops of a pen, line after line."""

    def scrawl(canvas: ImageDraw.ImageDraw) -> None:
        for top in np.arange(0.08, 0.95, rng.uniform(0.05, 0.12)):
            t = np.linspace(0, rng.uniform(20, 80), 400)
            x = 0.05 + np.linspace(0, rng.uniform(0.4, 0.9), 400) + 0.012 * np.cos(t)
            y = top + 0.018 * np.sin(t + np.cumsum(rng.normal(0, 0.1, 400)))
            canvas.line(list(zip(x * side, y * side, strict=True)), fill=255, width=int(rng.integers(1, 3)))

    return rng.uniform(0.8, 1) - rng.uniform(0.5, 0.8) * rasterize(side, scrawl)


def screen(rng: Rng, side: int) -> Plane:
    """Draw windows with bars, buttons and text, light or dark."""
    dark = rng.random() < 0.5

    def draw(canvas: ImageDraw.ImageDraw) -> None:
        for _ in range(rng.integers(1, 6)):
            x, y, wide, high = rng.uniform(0, 0.6), rng.uniform(0, 0.6), rng.uniform(0.2, 0.9), rng.uniform(0.2, 0.9)
            box = tuple(side * edge for edge in (x, y, x + wide, y + high))
            canvas.rectangle(box, fill=int(rng.integers(0, 120)), outline=int(rng.integers(100, 255)))
            canvas.rectangle((box[0], box[1], box[2], box[1] + 0.05 * side), fill=int(rng.integers(60, 255)))
            for line in np.arange(y + 0.08, y + high, rng.uniform(0.04, 0.09)):
                if rng.random() < 0.7:
                    random_text(
                        canvas, rng, ((x + 0.03) * side, line * side), 0.035 * side, wide * side * rng.uniform(0.2, 1)
                    )
                else:
                    canvas.rounded_rectangle(
                        (
                            (x + 0.03) * side,
                            line * side,
                            (x + wide * rng.uniform(0.2, 1)) * side,
                            (line + 0.035) * side,
                        ),
                        radius=3,
                        fill=int(rng.integers(60, 255)),
                    )

    shown = rasterize(side, draw)
    return shown if dark else 1 - shown


def plot(rng: Rng, side: int) -> Plane:
    """Draw axes with curves, bars or points."""

    def draw(canvas: ImageDraw.ImageDraw) -> None:
        canvas.line([(0.1 * side, 0.05 * side), (0.1 * side, 0.9 * side), (0.95 * side, 0.9 * side)], fill=255)
        x = np.linspace(0.1, 0.95, int(rng.integers(5, 60)))
        for _ in range(rng.integers(1, 5)):
            y = (
                0.5
                + 0.35 * np.sin(x * rng.uniform(2, 20) + rng.uniform(0, 6)) * rng.random()
                + rng.normal(0, 0.05, len(x))
            )
            ends = list(zip(x * side, y * side, strict=True))
            if rng.random() < 0.5:
                canvas.line(ends, fill=int(rng.integers(100, 255)), width=int(rng.integers(1, 4)))
            else:
                for left, top in ends:
                    canvas.rectangle(
                        (left, min(top, 0.9 * side), left + 4, 0.9 * side), fill=int(rng.integers(60, 255))
                    )
        random_text(canvas, rng, (0.2 * side, 0.93 * side), 0.04 * side, 0.6 * side)

    return rng.uniform(0.85, 1) - rng.uniform(0.5, 0.85) * rasterize(side, draw)


def test_pattern(rng: Rng, side: int) -> Plane:
    """Draw a test pattern: fields of gray, checks, rings or wedges."""
    x, y = pixel_grid(side)
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
    """Draw one plain mark on a plain background, with a word under it."""
    ground, ink = rng.random(2)
    mark = rasterize(
        side,
        lambda canvas: canvas.regular_polygon(
            (side / 2, side * 0.4, side * rng.uniform(0.1, 0.35)), int(rng.integers(3, 9)), fill=255
        ),
    )
    hole = ellipse(side, (0.5, 0.4), (rng.uniform(0.05, 0.2), rng.uniform(0.05, 0.2)), soft=0.005)
    word = rasterize(side, lambda canvas: random_text(canvas, rng, (0.2 * side, 0.8 * side), 0.12 * side, 0.5 * side))
    return (ground + np.maximum(mark * (1 - hole), word) * (ink - ground)).astype(np.float32)
