"""Draw pictures as cameras and microscopes take them, and pictures of nothing.

Every function draws one picture, float (side, side), about 0 to 1, from a random generator.
"""

import numpy as np
from PIL import Image

from trainer.input_gate.drawing import (
    Plane,
    Rng,
    ellipse,
    fractal_noise,
    gaussian_blur,
    pixel_grid,
    random_shape,
    rasterize,
    soft_tissue,
)


def scene(rng: Rng, side: int) -> Plane:
    """Draw any number of things of any shape and surface before each other: no scene in particular."""
    picture = _surface(rng, side)
    for _ in range(rng.integers(2, 25)):
        mask = gaussian_blur(rasterize(side, random_shape(rng, side, rng.uniform(0.05, 0.5))), rng.exponential(1.2))
        shade = _surface(rng, side) if rng.random() < 0.7 else rng.random()
        picture = picture + mask * rng.uniform(0.4, 1) * (shade - picture)
    return picture


def single_object(rng: Rng, side: int) -> Plane:
    """Draw one thing in the middle of an even background, symmetric as a chest is."""
    (_, y), ground = pixel_grid(side), rng.choice([0.0, 1.0, rng.random()])
    picture = np.full((side, side), ground, np.float32)
    for _ in range(rng.integers(2, 10)):
        at = rng.uniform(0, 0.35), rng.uniform(0.15, 0.85)
        reach, angle = tuple(rng.uniform(0.03, 0.3, 2)), rng.uniform(0, np.pi)
        soft, shade = rng.choice([0.005, 0.02, 0.08]), rng.random() + rng.normal(0, 0.6) * (y - 0.5)
        if rng.random() < 0.3:
            shade = shade + 0.3 * (fractal_noise(rng, side, rng.uniform(0.5, 1.5)) - 0.5)
        for left in (-1, 1):
            mask = ellipse(side, (0.5 + left * at[0], at[1]), reach, left * angle, soft)
            picture = picture + mask * (shade - picture)
    return picture.astype(np.float32)


def _surface(rng: Rng, side: int) -> Plane:
    """Draw a texture, lit from one side."""
    x, y = pixel_grid(side)
    angle = rng.uniform(0, 2 * np.pi)
    light = rng.random() + rng.normal(0, 0.4) * (np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5))
    rough = fractal_noise(rng, side, rng.uniform(0.3, 2)) - 0.5
    if rng.random() < 0.2:
        rough = np.sin((np.cos(angle) * x + np.sin(angle) * y) * rng.uniform(20, 200)) * 0.5 + rough
    return (light + rng.exponential(0.25) * rough).astype(np.float32)


def landscape(rng: Rng, side: int) -> Plane:
    """Draw sky, ridges one behind the other, and trees."""
    _, y = pixel_grid(side)
    picture = rng.uniform(0.6, 1) - rng.uniform(0, 0.4) * y + 0.3 * (fractal_noise(rng, side, 1.7) - 0.5)
    horizon = rng.uniform(0.25, 0.6)
    for depth in range(int(rng.integers(1, 5))):
        line = horizon + 0.12 * depth + rng.uniform(0.05, 0.4) * (fractal_noise(rng, side, 1.5)[0] - 0.5)
        ground = rng.uniform(0.1, 0.7) + rng.uniform(0.1, 0.6) * (fractal_noise(rng, side, rng.uniform(0.4, 1.3)) - 0.5)
        picture = np.where(y > line, ground, picture)
    for _ in range(rng.integers(0, 6)):
        foot = rng.uniform(0, 1), rng.uniform(0.5, 1)
        crown = ellipse(side, (foot[0], foot[1] - 0.25), (rng.uniform(0.05, 0.15), 0.2), soft=0.03)
        crown = crown * (fractal_noise(rng, side, 0.7) > 0.4)
        tree = np.maximum(crown, soft_tissue(side, foot, (foot[0], foot[1] - 0.2), 0.015) > 0)
        picture = picture * (1 - tree) + tree * rng.uniform(0.05, 0.4)
    return picture.astype(np.float32)


def portrait(rng: Rng, side: int) -> Plane:
    """Draw a head with hair, eyes and mouth on shoulders, lit from one side."""
    picture, (x, y) = _surface(rng, side), (rng.uniform(0.35, 0.65), rng.uniform(0.3, 0.5))
    size, skin = rng.uniform(0.12, 0.28), rng.uniform(0.35, 0.9)
    light = skin + rng.normal(0, 0.5) * (pixel_grid(side)[0] - x)
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
    return (picture + 0.1 * (fractal_noise(rng, side, 0.8) - 0.5)).astype(np.float32)


def street(rng: Rng, side: int) -> Plane:
    """Draw house fronts with rows of windows, a road, and things on it."""
    x, y = pixel_grid(side)
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
        car = rasterize(side, random_shape(rng, side, 0.06)) * (y > 0.6)
        picture = picture + car * (rng.random() - picture)
    return (picture + rng.uniform(0.05, 0.3) * (fractal_noise(rng, side, 0.8) - 0.5)).astype(np.float32)


def animal(rng: Rng, side: int) -> Plane:
    """Draw a body with head, legs and a coat, in grass."""
    picture = fractal_noise(rng, side, rng.uniform(0.3, 1.2)) * rng.uniform(0.3, 1)
    coat = np.sin(fractal_noise(rng, side, 1.8) * rng.uniform(5, 60)) * 0.3 + rng.uniform(0.3, 0.7)
    at, long = (rng.uniform(0.35, 0.65), rng.uniform(0.4, 0.6)), rng.uniform(0.15, 0.3)
    body = ellipse(side, at, (long, 0.55 * long))
    head = ellipse(side, (at[0] + long, at[1] - 0.5 * long), (0.45 * long, 0.35 * long), rng.uniform(-1, 1))
    legs = [
        soft_tissue(side, (at[0] + d * long, at[1]), (at[0] + d * long, at[1] + long), 0.03) > 0 for d in (-0.7, 0.6)
    ]
    mask = np.maximum.reduce([body, head, *legs])
    return (picture + mask * (coat - picture)).astype(np.float32)


def microscopy(rng: Rng, side: int) -> Plane:
    """Draw dozens of round things, like cells under a microscope, coins or stones."""
    picture = rng.random() + 0.2 * (fractal_noise(rng, side, 1.5) - 0.5)
    size = rng.uniform(0.015, 0.08)
    for _ in range(rng.integers(10, 60)):
        at, reach = tuple(rng.random(2)), tuple(size * np.exp(rng.normal(0, 0.3, 2)))
        cell = ellipse(side, at, reach, rng.uniform(0, 3), 0.01)
        core = ellipse(side, at, (0.4 * reach[0], 0.4 * reach[1]), 0, 0.01)
        picture = picture + cell * rng.normal(0, 0.15) - core * rng.uniform(0, 0.3)
    return picture.astype(np.float32)


def noise(rng: Rng, side: int) -> Plane:
    """Draw noise: Gaussian, salt and pepper, coarse, or of all frequencies."""
    kind = rng.integers(4)
    if kind == 0:
        return rng.normal(rng.random(), rng.uniform(0.05, 0.5), (side, side)).astype(np.float32)
    if kind == 1:
        return (rng.random((side, side)) < rng.uniform(0.02, 0.98)).astype(np.float32)
    if kind == 2:
        many = int(rng.integers(4, 80))
        small = Image.fromarray(rng.random((many, many)).astype(np.float32))
        return np.asarray(small.resize((side, side), Image.Resampling.BICUBIC))
    return fractal_noise(rng, side, rng.uniform(0, 2.5))


def stripes(rng: Rng, side: int) -> Plane:
    """Draw random lines along one axis, as a broken detector gives."""
    lines = np.repeat(rng.random((side, 1)), side, axis=1).astype(np.float32)
    picture = lines if rng.random() < 0.5 else lines.T
    return picture * rng.uniform(0.3, 1) + rng.uniform(0, 0.3) * fractal_noise(rng, side, rng.uniform(0, 2))


def blank(rng: Rng, side: int) -> Plane:
    """Draw one gray, or one that changes slowly, with hardly any grain."""
    x, y = pixel_grid(side)
    slope = rng.normal(0, 0.3, 2) * (rng.random() < 0.7)
    bow = rng.normal(0, 0.8) * ((x - rng.random()) ** 2 + (y - rng.random()) ** 2) * (rng.random() < 0.5)
    flat = rng.random() + slope[0] * (x - 0.5) + slope[1] * (y - 0.5) + bow
    return (flat + rng.normal(0, rng.uniform(0, 0.03), (side, side))).astype(np.float32)
