"""Find images of the same picture: the same bytes, or encoded or resized differently."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pneumowatch.imaging.reader import Pixels

THUMBNAIL: Final = 32  # edge in pixels
# Correlation of two thumbnails. In the Kermany set, of 300 originals with their own 224-pixel forms: at least 0.9998;
# of 50 of them as a JPEG of quality 20, or of 100 pixels: 0.9987; with gamma 0.8 to 1.3: 0.993. Of 4,693 images with
# those of other patients: at most 0.976. A cropped image (0.935 with 2 % off each side) is therefore not recognised.
MIN_CORRELATION: Final = 0.99
CHUNK_ROWS: Final = 1024  # rows that are compared with all others at a time: bounds memory


@dataclass(frozen=True)
class DuplicatePairs:
    """Pairs of images by index, the lower one first, each pair once."""

    exact: tuple[tuple[int, int], ...]  # same SHA-256; each file only with its next copy
    near: tuple[tuple[int, int], ...]  # same picture in other bytes

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        return self.exact + self.near


def find_near_duplicates(hashes: Sequence[str], images: Sequence[Pixels]) -> DuplicatePairs:
    """Find exact and near duplicates among images, uint8 (side, side), by the hashes of their files and by pixels."""
    last: dict[str, int] = {}
    exact = []
    for index, sha256 in enumerate(hashes):
        if sha256 in last:
            exact.append((last[sha256], index))
        last[sha256] = index
    near = [(a, b) for a, b in _similar_pairs(images) if hashes[a] != hashes[b]]
    return DuplicatePairs(tuple(exact), tuple(near))


def propagate_ranks(patients: Sequence[str], pairs: Sequence[tuple[int, int]], ranks: Sequence[int]) -> list[int]:
    """Return for each image the highest rank among its patient and all patients linked to it by duplicates.

    Shape (n,), as `ranks`.
    """
    leader = {patient: patient for patient in patients}

    def lead(patient: str) -> str:
        while leader[patient] != patient:
            patient = leader[patient]
        return patient

    for a, b in pairs:
        leader[lead(patients[a])] = lead(patients[b])
    highest: dict[str, int] = {}
    for patient, rank in zip(patients, ranks, strict=True):
        highest[lead(patient)] = max(rank, highest.get(lead(patient), rank))
    return [highest[lead(patient)] for patient in patients]


def _similar_pairs(images: Sequence[Pixels]) -> list[tuple[int, int]]:
    if not len(images):
        return []
    thumbnails = np.stack([_thumbnail(image) for image in images])
    found = []
    for start in range(0, len(thumbnails), CHUNK_ROWS):
        alike = thumbnails[start : start + CHUNK_ROWS] @ thumbnails[start:].T > MIN_CORRELATION
        rows, columns = np.nonzero(np.triu(alike, 1))
        found += list(zip((rows + start).tolist(), (columns + start).tolist(), strict=True))
    return found


def _thumbnail(image: Pixels) -> NDArray[np.float32]:
    """Return a thumbnail without its mean and of length one: brightness and contrast do not matter; float32 (n,)."""
    small = Image.fromarray(image).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    values = np.asarray(small, np.float32).ravel()
    values = values - values.mean()
    return values / max(float(np.linalg.norm(values)), 1e-6)
