"""The one reader of film files: bytes in, 8-bit gray pixels out.

Worker, trainer, desk and `classify` all read through here, so the same film gives exactly the same pixels at every
door. Kinds are told by content; a file's name is never looked at.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pneumowatch.errors import ImageRejected
from pneumowatch.header import Header
from pneumowatch.imaging import common_formats, dicom

Pixels = NDArray[np.uint8]

MAX_PIXELS: Final = 200_000_000  # a 16-bit film of 14,000 x 14,000 still fits; the largest detectors have 4,300 a side


@dataclass(frozen=True)
class DecodedImage:
    """Pixels, uint8 (side, side), 0 black, 255 white; and what a DICOM header says, None for other files."""

    pixels: Pixels
    header: Header | None = None


def read_image(data: bytes, side: int, max_pixels: int = MAX_PIXELS, patient_key: bytes | None = None) -> DecodedImage:
    """Read a film and reduce it to a square.

    Args:
        data: the whole file.
        side: edge of the square in pixels; the film is squashed to it (aspect not kept), as in the training set.
        max_pixels: bound on width x height, checked before decoding.
        patient_key: secret under which a DICOM header's patient ID is hashed; without it the ID is dropped.

    Returns:
        Several pages: the first. Colour: its luminance (ITU-R 601-2). More than 8 bits: of DICOM by its VOI
        transformation, of others scaled linearly from the film's own minimum and maximum.

    Raises:
        ImageRejected: with a code of `db.states.Reason`.
    """
    gray, header = _read_gray(data, side, max_pixels, patient_key)
    return _reduce_to_square(gray, side, header)


def read_pixels(data: bytes, side: int, max_pixels: int = MAX_PIXELS) -> Pixels:
    """The pixels alone, as `read_image` gives them."""
    return read_image(data, side, max_pixels).pixels


def read_for_display(data: bytes, longest: int, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The film as people look at it: 8-bit gray in its own proportions, no side longer than `longest` pixels.

    Raises ImageRejected, as `read_image` does.
    """
    gray, _ = _read_gray(data, longest, max_pixels, None)
    gray.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return gray


def _read_gray(data: bytes, side: int, max_pixels: int, patient_key: bytes | None) -> tuple[Image.Image, Header | None]:
    """The film as 8-bit gray, at least `side` pixels wide and high where it is."""
    if not data:
        raise ImageRejected("empty", "The file is empty; send the film again.")
    if dicom.is_dicom(data):
        gray, header = dicom.read_dicom(data, max_pixels, patient_key)
        return Image.fromarray(gray), header
    return common_formats.read_common_format(data, side, max_pixels), None


def _reduce_to_square(gray: Image.Image, side: int, header: Header | None = None) -> DecodedImage:
    pixels = np.asarray(gray.resize((side, side), Image.Resampling.BILINEAR))
    if pixels.min() == pixels.max():  # nothing exposed, or all of it transparent
        raise ImageRejected("no_pixels", "The picture is one gray all over; send the film itself.", header)
    return DecodedImage(pixels, header)
