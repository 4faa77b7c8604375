"""Draw images of other modalities: CT, MR, ultrasound, angiography.

Every function draws one picture, float (side, side), about 0 to 1, from a random generator.
"""

import numpy as np
from PIL import ImageDraw

from trainer.input_gate.drawing import (
    Plane,
    Rng,
    ellipse,
    fractal_noise,
    gaussian_blur,
    pixel_grid,
    polar_offset,
    random_text,
    rasterize,
)


def ct(rng: Rng, side: int) -> Plane:
    """Draw a slice across the trunk: fat, organs, spine, ribs; lungs in some; the couch under it."""
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
    """Draw a slice through a head: scalp, skull, folded cortex, ventricles."""
    at, reach = tuple(rng.uniform(0.45, 0.55, 2)), (rng.uniform(0.28, 0.4), rng.uniform(0.33, 0.45))
    scalp, gap = ellipse(side, at, reach, soft=0.01), ellipse(side, at, (0.94 * reach[0], 0.95 * reach[1]), soft=0.01)
    brain = ellipse(side, at, (0.87 * reach[0], 0.88 * reach[1]), soft=0.012)
    folds = np.sin(fractal_noise(rng, side, rng.uniform(1, 1.6)) * rng.uniform(15, 50))
    tissue = rng.uniform(0.3, 0.7) + rng.uniform(0.05, 0.2) * folds
    slice_ = scalp * rng.uniform(0.4, 0.9) * (1 - gap) + brain * tissue
    for left in (-1, 1):
        ventricle = ellipse(
            side, (at[0] + left * 0.05, at[1]), (rng.uniform(0.02, 0.05), rng.uniform(0.06, 0.12)), left * 0.3
        )
        slice_ = slice_ + ventricle * brain * rng.uniform(-0.5, 0.5)
    cleft = ellipse(side, at, (0.006, reach[1]), soft=0.006)
    return (slice_ - 0.3 * cleft * brain + rng.normal(0, 0.02, (side, side))).astype(np.float32)


def ultrasound(rng: Rng, side: int) -> Plane:
    """Draw a fan of speckle on black, dark where there is fluid, with text at its edge."""
    x, y = pixel_grid(side)
    far, angle = np.hypot(x - 0.5, y + 0.1), np.arctan2(x - 0.5, y + 0.1)
    fan = (np.abs(angle) < rng.uniform(0.4, 0.75)) * (far > 0.2) * (far < rng.uniform(0.85, 1.05))
    speckle = rng.rayleigh(0.3, (side, side)) * (0.2 + fractal_noise(rng, side, 1.3))
    fluid = fractal_noise(rng, side, 1.9) < rng.uniform(0.2, 0.4)
    layers = 0.6 + 0.4 * np.sin(far * rng.uniform(10, 60) + 4 * fractal_noise(rng, side, 1.8))
    text = rasterize(side, lambda canvas: random_text(canvas, rng, (3, 3), 0.05 * side, 0.4 * side))
    return np.maximum(gaussian_blur((fan * speckle * layers * (1 - 0.8 * fluid)).astype(np.float32), 0.7), text)


def angiogram(rng: Rng, side: int) -> Plane:
    """Draw a tree of vessels on an even background: an angiogram, or a retina where the background is round."""

    def draw(canvas: ImageDraw.ImageDraw) -> None:
        waiting = [
            ((0.5, rng.random()), rng.uniform(0, 2 * np.pi), rng.uniform(2, 7)) for _ in range(rng.integers(2, 7))
        ]
        while waiting:
            at, way, thick = waiting.pop()
            while thick > 0.8:
                ahead = polar_offset(at, way, 0.03)
                ends = [(end[0] * side, end[1] * side) for end in (at, ahead)]
                canvas.line(ends, fill=255, width=max(round(thick), 1))
                if rng.random() < 0.2:
                    waiting.append((ahead, way + rng.choice([-0.7, 0.7]), thick * 0.6))
                at, way, thick = ahead, way + rng.normal(0, 0.2), thick * 0.95

    ground = rng.uniform(0.4, 0.8) + 0.3 * (fractal_noise(rng, side, 1.8) - 0.5)
    if rng.random() < 0.5:
        ground = ground * ellipse(side, (0.5, 0.5), (0.46, 0.46), soft=0.01)
    return (ground * (1 - rng.uniform(0.2, 0.7) * gaussian_blur(rasterize(side, draw), 0.6))).astype(np.float32)
