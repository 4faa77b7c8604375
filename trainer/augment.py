"""Change images as other scanners, exposures and positioning would have.

A network must learn to ignore such differences.

All random numbers come from one generator, so that a run can be repeated. Only the geometry needs Keras' operations, on
any backend; the rest is NumPy.
"""

import io
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pneumowatch.imaging.reader import Pixels
from trainer.networks import load_keras

Floats = NDArray[np.float32]

WHITE: Final = 255.0


@dataclass(frozen=True)
class Augmentation:
    """How far an image may be changed, each value in both directions."""

    degrees: float = 12.0  # of rotation
    zoom: float = 0.18
    aspect: float = 0.12  # of width to height: images of any shape are squashed to the square
    shear: float = 0.08
    shift: float = 0.09  # of the side
    flip: bool = True  # hearts on the right are rare, but lungs are alike
    gamma: float = 0.7  # of its logarithm
    contrast: float = 0.4  # of its logarithm
    brightness: float = 0.18  # of white
    detail: float = 0.3  # of the logarithm of the contrast within a small part of the image, as scanners process it
    shading: float = 0.2  # of the logarithm of the brightness of one part of the image against another
    softness: float = 0.8  # half of the images: blurred, or sharpened, up to this share
    noise: float = 0.05  # standard deviation, of white, half of the images
    borders: float = 0.15  # of the side, black, one quarter of the images
    patches: float = 0.3  # of the side, of one gray, half of the images
    compression: float = 0.8  # reduction of JPEG's quality from 100, one third of the images


def augment(images: Pixels, strength: Augmentation, rng: np.random.Generator) -> Pixels:
    """Change each image (n, side, side, 1) in its own way; uint8, like real ones."""
    x = _warped(images.astype(np.float32) / WHITE, strength, rng)
    x = _blurred_or_sharpened(x, strength, rng)
    x = _reprocessed(x, strength, rng)
    x = _exposure_changed(x, strength, rng)
    _add_noise(x, strength, rng)
    _add_occlusions(x, strength, rng)
    x *= WHITE
    return _jpeg_compressed(np.round(np.clip(x, 0, WHITE, out=x), out=x).astype(np.uint8), strength, rng)


def _uniform(rng: np.random.Generator, count: int, low: float, high: float) -> Floats:
    """Draw one value per image, to be broadcast over its pixels."""
    return rng.uniform(low, high, (count, 1, 1, 1)).astype(np.float32)


def _warped(x: Floats, strength: Augmentation, rng: np.random.Generator) -> Floats:
    """Apply one affine map per image, about its centre, with one interpolation."""
    image = load_keras().ops.image
    maps = _affine_maps(len(x), x.shape[1], strength, rng)
    moved = image.affine_transform(x, maps, interpolation="bilinear", fill_mode="constant", fill_value=0.0)
    return np.array(moved, np.float32)


def _affine_maps(count: int, side: int, strength: Augmentation, rng: np.random.Generator) -> Floats:
    """Draw eight numbers per image, mapping places in the new one to the old: a0 a1 a2, b0 b1 b2, 0 0."""

    def draw(size: float) -> NDArray[np.float64]:
        return rng.uniform(-size, size, count)

    angle, shear, zoom, aspect = (
        np.radians(draw(strength.degrees)),
        draw(strength.shear),
        1 + draw(strength.zoom),
        np.exp(draw(strength.aspect)),
    )
    wide, high = zoom * aspect, zoom / aspect
    if strength.flip:
        wide = wide * rng.choice([-1.0, 1.0], count)
    a0, a1 = wide * np.cos(angle), -high * (np.sin(angle) + shear)
    b0, b1 = wide * np.sin(angle), high * np.cos(angle)
    middle = (side - 1) / 2
    a2 = middle - (a0 + a1) * middle + draw(strength.shift) * side
    b2 = middle - (b0 + b1) * middle + draw(strength.shift) * side
    zero = np.zeros(count)
    return np.stack([a0, a1, a2, b0, b1, b2, zero, zero], axis=1).astype(np.float32)


def _blurred_or_sharpened(x: Floats, strength: Augmentation, rng: np.random.Generator) -> Floats:
    """Blur or sharpen half of the images: move each towards its blurred version, or away from it."""
    chosen = np.flatnonzero(rng.random(len(x)) < 0.5)
    amount = _uniform(rng, len(chosen), -strength.softness, strength.softness)
    some = x[chosen]
    x[chosen] = some + amount * (_blurred(_blurred(some)) - some)
    return x


def _blurred(x: Floats) -> Floats:
    """Blur by the binomial 1 2 1 along both axes; the outermost rows and columns stay."""
    down = x.copy()
    down[:, 1:-1] = (x[:, :-2] + x[:, 2:]) / 4 + x[:, 1:-1] / 2
    across = down.copy()
    across[:, :, 1:-1] = (down[:, :, :-2] + down[:, :, 2:]) / 4 + down[:, :, 1:-1] / 2
    return across


def _reprocessed(x: Floats, strength: Augmentation, rng: np.random.Generator) -> Floats:
    """Change local contrast and shading, as each scanner does in its own way.

    Details smaller than an eighth of the image, and then those smaller than a twenty-fourth, become stronger or weaker;
    one part of the image becomes lighter than another.
    """
    for parts in (8, 24):
        rough = _upsampled(_block_sums(x, parts) / (x.shape[1] / parts) ** 2, x.shape[1])
        x = rough + (x - rough) * np.exp(_uniform(rng, len(x), -strength.detail, strength.detail))
    field = rng.uniform(-strength.shading, strength.shading, (len(x), 4, 4, 1)).astype(np.float32)
    shaded: Floats = x * np.exp(_upsampled(field, x.shape[1]))
    return shaded


def _block_sums(x: Floats, parts: int) -> Floats:
    """Sum over each of parts x parts squares, (n, parts, parts, 1).

    A pixel on an edge counts for both squares by its share.
    """
    weights = np.zeros((parts, x.shape[1]), np.float32)
    edges = np.linspace(0, x.shape[1], parts + 1)
    place = np.arange(x.shape[1])
    for part, (low, high) in enumerate(pairwise(edges)):
        weights[part] = np.clip(np.minimum(place + 1, high) - np.maximum(place, low), 0, 1)
    return np.asarray((weights @ x[..., 0] @ weights.T)[..., np.newaxis], np.float32)


def _upsampled(x: Floats, side: int) -> Floats:
    """Interpolate (n, parts, parts, 1) to (n, side, side, 1), bilinear between the centres of the parts."""
    parts = x.shape[1]
    middles = np.clip((np.arange(side) + 0.5) * parts / side - 0.5, 0, parts - 1)
    weights = np.clip(1 - np.abs(middles[:, np.newaxis] - np.arange(parts)), 0, 1).astype(np.float32)
    return np.asarray((weights @ x[..., 0] @ weights.T)[..., np.newaxis], np.float32)


def _exposure_changed(x: Floats, strength: Augmentation, rng: np.random.Generator) -> Floats:
    bent = np.power(np.clip(x, 1e-4, 1), np.exp(_uniform(rng, len(x), -strength.gamma, strength.gamma)))
    mean = bent.mean(axis=(1, 2, 3), keepdims=True)
    contrast = np.exp(_uniform(rng, len(x), -strength.contrast, strength.contrast))
    changed: Floats = (bent - mean) * contrast + mean + _uniform(rng, len(x), -strength.brightness, strength.brightness)
    return changed


def _add_noise(x: Floats, strength: Augmentation, rng: np.random.Generator) -> None:
    """Add noise in place."""
    for image in x:
        if rng.random() < 0.5:
            image += rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(0, strength.noise))


def _add_occlusions(x: Floats, strength: Augmentation, rng: np.random.Generator) -> None:
    """Add black borders and a patch of one gray, in place."""
    side = x.shape[1]
    for image in x:
        if rng.random() < 0.25:
            top, bottom, left, right = (rng.uniform(0, strength.borders, 4) * side).astype(int)
            image[:top] = image[side - bottom :] = image[:, :left] = image[:, side - right :] = 0
        if rng.random() < 0.5:
            height, width = (rng.uniform(0, strength.patches, 2) * side).astype(int)
            row, column = rng.integers(0, side, 2)
            image[row : row + height, column : column + width] = rng.random()


def _jpeg_compressed(images: Pixels, strength: Augmentation, rng: np.random.Generator) -> Pixels:
    """Convert a third of the images to JPEG and back, in place.

    What reaches a department has been compressed at another size, once or twice.
    """
    for image in images:
        if strength.compression and rng.random() < 1 / 3:
            file, quality = io.BytesIO(), round(100 * (1 - rng.uniform(0, strength.compression)))
            Image.fromarray(image[..., 0]).save(file, "JPEG", quality=quality)
            image[..., 0] = np.asarray(Image.open(file))
    return images


def mixup(images: Pixels, labels: Any, share: float, rng: np.random.Generator) -> tuple[Pixels, Any]:
    """Mix images, and their labels, with others of their batch, mostly a little (mixup: Zhang et al., 2018)."""
    weight = 0.5 * rng.random(len(images)).astype(np.float32) ** (1 / share)
    other, wide = rng.permutation(len(images)), weight[:, None, None, None]
    blend = images * (1 - wide) + images[other] * wide
    return np.round(blend).astype(np.uint8), labels * (1 - weight) + labels[other] * weight
