"""Out-of-distribution samples: pictures that are no frontal chest images, to fit the input gate and to measure it.

Drawn ones come from `photographs`, `documents`, `other_anatomy` and `other_modality`. Corrupted ones are the caller's
chest images turned, inverted, cropped or put together. Nothing is copied from anywhere. Some kinds are held out: no
gate is fitted to them, so that results on them show how it does on pictures that nobody drew.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from pneumowatch.imaging.reader import Pixels
from trainer.input_gate import corruptions, documents, other_anatomy, other_modality, photographs
from trainer.input_gate.corruptions import resized
from trainer.input_gate.drawing import Plane, Rng, gaussian_blur, stretch_contrast

CORRUPTED_SHARE: Final = 3  # corrupted chest images for each drawn picture: they are the hardest to recognise


@dataclass(frozen=True)
class SampleKind:
    """One kind of picture that is no frontal chest image.

    `draw` takes a random generator and a side; `corrupt` takes a random generator and a chest image, 0 to 1.
    """

    name: str
    group: str  # the class under which results are counted
    draw: Callable[[Rng, int], Plane] | None = None
    corrupt: Callable[[Rng, Plane], Plane] | None = None
    held_out: bool = False  # only for measuring
    weight: int = 1  # in a mixture, relative to other drawn or other corrupted kinds


def draw_samples(kind: SampleKind, count: int, images: Pixels, seed: int) -> Pixels:
    """Draw pictures of one kind, uint8 (count, side, side, 1), the same for the same seed.

    Args:
        images: uint8 (n, side, side, 1) chest images, at least one. The pictures have their side, and corrupted
            pictures are made of them.
    """
    rng = np.random.default_rng([seed, *kind.name.encode()])
    return np.array([_one(kind, images, rng) for _ in range(count)], np.uint8).reshape(count, *images.shape[1:])


def draw_mixture(count: int, images: Pixels, seed: int) -> Pixels:
    """Draw about `count` pictures of all kinds that are not held out; uint8 (m, side, side, 1).

    There are more of the kinds that are nearest to chest images.
    """
    fitted = [kind for kind in KINDS if not kind.held_out]
    shares = [kind.weight * (CORRUPTED_SHARE if kind.corrupt else 1) for kind in fitted]
    unit = count / sum(shares)
    drawn = [
        draw_samples(kind, math.ceil(share * unit), images, seed) for kind, share in zip(fitted, shares, strict=True)
    ]
    return np.concatenate(drawn)


def _one(kind: SampleKind, images: Pixels, rng: Rng) -> Pixels:
    if kind.draw:
        return _pixels(_camera_varied(rng, kind.draw(rng, images.shape[1])))
    assert kind.corrupt
    return _pixels(kind.corrupt(rng, images[rng.integers(len(images)), :, :, 0].astype(np.float32) / 255))


def _pixels(x: Plane) -> Pixels:
    return np.round(np.clip(x, 0, 1) * 255).astype(np.uint8)


def _camera_varied(rng: Rng, x: Plane) -> Plane:
    """Vary a picture as cameras do: cut, turned, sharp or not, of any exposure, negative or not."""
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
        x = gaussian_blur(np.ascontiguousarray(x), rng.exponential(1))
    if rng.random() < 0.5:
        x = stretch_contrast(x)
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
NOISE, BLANK, OTHER_ANATOMY, LATERAL = "noise", "blank", "other parts of the body", "chests from the side"
OTHER_MODALITY, TURNED, INVERTED = "other modalities", "chest images turned", "chest images inverted"
CROPPED, MONTAGE, SCRAMBLED = "chest images cropped", "several images, or a small one", "chest images in pieces"

KINDS: Final = (
    SampleKind("scene", PHOTOGRAPH, photographs.scene),
    SampleKind("thing", PHOTOGRAPH, photographs.single_object),
    SampleKind("landscape", PHOTOGRAPH, photographs.landscape),
    SampleKind("portrait", PHOTOGRAPH, photographs.portrait),
    SampleKind("street", PHOTOGRAPH, photographs.street, held_out=True),
    SampleKind("animal", PHOTOGRAPH, photographs.animal, held_out=True),
    SampleKind("page", DOCUMENT, documents.text_page),
    SampleKind("form", DOCUMENT, documents.form),
    SampleKind("handwriting", DOCUMENT, documents.handwriting, held_out=True),
    SampleKind("screen", SCREEN, documents.screen),
    SampleKind("plot", SCREEN, documents.plot, held_out=True),
    SampleKind("chart", PATTERN, documents.test_pattern),
    SampleKind("logo", PATTERN, documents.logo, held_out=True),
    SampleKind("noise", NOISE, photographs.noise),
    SampleKind("stripes", NOISE, photographs.stripes, held_out=True),
    SampleKind("blank", BLANK, photographs.blank),
    SampleKind("hand", OTHER_ANATOMY, other_anatomy.hand),
    SampleKind("limb", OTHER_ANATOMY, other_anatomy.limb),
    SampleKind("pelvis", OTHER_ANATOMY, other_anatomy.pelvis),
    SampleKind("abdomen", OTHER_ANATOMY, other_anatomy.abdomen),
    SampleKind("foot", OTHER_ANATOMY, other_anatomy.foot, held_out=True),
    SampleKind("skull", OTHER_ANATOMY, other_anatomy.skull, held_out=True),
    SampleKind("spine", OTHER_ANATOMY, other_anatomy.spine, held_out=True),
    SampleKind("lateral", LATERAL, other_anatomy.lateral),
    SampleKind("CT", OTHER_MODALITY, other_modality.ct),
    SampleKind("MR", OTHER_MODALITY, other_modality.mr),
    SampleKind("cells", OTHER_MODALITY, photographs.microscopy),
    SampleKind("ultrasound", OTHER_MODALITY, other_modality.ultrasound, held_out=True),
    SampleKind("vessels", OTHER_MODALITY, other_modality.angiogram, held_out=True),
    SampleKind("quarter turn", TURNED, corrupt=corruptions.quarter_turned),
    SampleKind("upside down", TURNED, corrupt=corruptions.upside_down),
    SampleKind("inverted", INVERTED, corrupt=corruptions.inverted),
    SampleKind("inverted and turned", INVERTED, corrupt=corruptions.inverted_and_turned, held_out=True),
    SampleKind("cropped", CROPPED, corrupt=corruptions.cropped),
    SampleKind("strip", CROPPED, corrupt=corruptions.strip_cropped, weight=3),
    SampleKind("corner", CROPPED, corrupt=corruptions.corner_cropped, held_out=True),
    SampleKind("half", CROPPED, corrupt=corruptions.half_cropped, held_out=True),
    SampleKind("shrunk", MONTAGE, corrupt=corruptions.shrunk),
    SampleKind("two by two", MONTAGE, corrupt=corruptions.tiled(2, 2)),
    SampleKind("side by side", MONTAGE, corrupt=corruptions.tiled(1, 2)),
    SampleKind("one over the other", MONTAGE, corrupt=corruptions.tiled(2, 1)),
    SampleKind("two by three", MONTAGE, corrupt=corruptions.tiled(2, 3), held_out=True),
    SampleKind("shuffled", SCRAMBLED, corrupt=corruptions.patches_shuffled),
    SampleKind("phases lost", SCRAMBLED, corrupt=corruptions.phase_scrambled),
    SampleKind("bent", SCRAMBLED, corrupt=corruptions.warped),
    SampleKind("swirled", SCRAMBLED, corrupt=corruptions.swirled, held_out=True),
)
