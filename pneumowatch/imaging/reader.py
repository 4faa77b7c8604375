"""Read image files: the only code that turns their bytes into 8-bit gray pixels.

Worker, trainer, review app and `classify` all use it, so the same file gives exactly the same pixels everywhere. The
format is recognised by content, never by the file's name.
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

MAX_PIXELS: Final = 200_000_000  # 14,000 x 14,000; the largest detectors have 4,300 a side


@dataclass(frozen=True)
class DecodedImage:
    """Pixels, uint8 (side, side), 0 black, 255 white, and the DICOM header; None for files of other formats."""

    pixels: Pixels
    header: Header | None = None


def read_image(data: bytes, side: int, max_pixels: int = MAX_PIXELS, patient_key: bytes | None = None) -> DecodedImage:
    """Read an image file and reduce it to a square.

    Args:
        data: the whole file.
        side: edge of the square in pixels; the aspect ratio is not kept, as in the training set.
        max_pixels: limit of width x height, checked before decoding.
        patient_key: secret with which the patient ID of a DICOM header is hashed; without it the ID is dropped.

    Returns:
        Of several pages the first. Of colour the luminance (ITU-R 601-2). More than 8 bits are reduced by the VOI
        transformation in DICOM, else scaled linearly from the image's own minimum and maximum.

    Raises:
        ImageRejected: with a code of `db.states.Reason`.
    """
    gray, header = _read_gray(data, side, max_pixels, patient_key)
    return _reduce_to_square(gray, side, header)


def read_pixels(data: bytes, side: int, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Return only the pixels of `read_image`."""
    return read_image(data, side, max_pixels).pixels


def read_for_display(data: bytes, longest: int, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read an image for viewing: 8-bit gray in its own aspect ratio, no side longer than `longest` pixels.

    Raises ImageRejected, as `read_image` does.
    """
    gray, _ = _read_gray(data, longest, max_pixels, None)
    gray.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return gray


def _read_gray(data: bytes, side: int, max_pixels: int, patient_key: bytes | None) -> tuple[Image.Image, Header | None]:
    """Read the DICOM header and 8-bit gray pixels, at least `side` wide and high where the image is that large."""
    if not data:
        raise ImageRejected("empty", "The file is empty; send the image again.")
    if dicom.is_dicom(data):
        gray, header = dicom.read_dicom(data, max_pixels, patient_key)
        return Image.fromarray(gray), header
    return common_formats.read_common_format(data, side, max_pixels), None


def _reduce_to_square(gray: Image.Image, side: int, header: Header | None = None) -> DecodedImage:
    pixels = np.asarray(gray.resize((side, side), Image.Resampling.BILINEAR))
    if pixels.min() == pixels.max():  # not exposed, or all transparent
        raise ImageRejected("no_pixels", "All pixels of the image are equal; send the original image.", header)
    return DecodedImage(pixels, header)
