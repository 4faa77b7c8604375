"""Films that are common images, read with Pillow."""

import io
import warnings
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from pneumowatch import codecs
from pneumowatch.errors import TOO_MUCH_MEMORY, FilmRejected

FORMATS: Final = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "JPEG2000")
KINDS: Final = "JPEG, JPEG 2000, PNG, TIFF, BMP, GIF or DICOM"  # for people
DEEP: Final = ("I", "F")  # how Pillow's modes of more than 8 bits begin
LUMINANCE: Final = np.array([0.299, 0.587, 0.114])  # of red, green and blue, ITU-R 601-2
TIFF_PHOTOMETRIC: Final = 262  # the tag that says what zero means
TIFF_WHITE_IS_ZERO: Final = 0

# Our own bound, checked before a pixel is decoded, replaces Pillow's: that one only warns below twice its value.
Image.MAX_IMAGE_PIXELS = None


def read(data: bytes, side: int, max_pixels: int) -> Image.Image:
    """The film as an 8-bit gray image, at least `side` wide and high where the film is: a JPEG is reduced on the way.

    Raises:
        FilmRejected: `unsupported`, `unreadable`, `too_large` or `no_pixels`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd metadata is common in films and changes no pixel
        if codecs.is_deep_jpeg(data):
            return _deep_jpeg(data, max_pixels)
        return _gray(_open(data, max_pixels), side)


def _deep_jpeg(data: bytes, max_pixels: int) -> Image.Image:
    """12-bit and lossless JPEG, which Pillow does not read."""
    width, height = codecs.jpeg_size(data)
    _check_size(width, height, max_pixels)
    try:
        values = codecs.decode(data, height, width, is_rgb=True)
        gray = values if values.ndim == 2 else values @ LUMINANCE
        return Image.fromarray(np.round(gray).astype(np.uint8)) if values.itemsize == 1 else _scale_to_bytes(gray)
    except Exception as error:  # noqa: BLE001 - as in _open
        raise _unreadable(error) from None


def _open(data: bytes, max_pixels: int) -> Image.Image:
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise FilmRejected("unsupported", f"This is no film of a kind that is read here: {KINDS}.") from None
    except Exception as error:  # noqa: BLE001 - a damaged header raises SyntaxError, struct.error, KeyError, ...
        raise _unreadable(error) from None
    if image.format == "PNG":
        image = _verified(image, data)
    _check_size(*image.size, max_pixels)
    return image


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise FilmRejected("too_large", f"The film has {width} x {height} pixels; at most {max_pixels:,} are read.")


def _verified(image: Image.Image, data: bytes) -> Image.Image:
    """A PNG whose check sums hold. Pillow skips those of the pixels: a file whose end is still zeros, as a copy that
    reserved its space leaves it, would pass for a film that is half black."""
    try:
        image.verify()
        return Image.open(io.BytesIO(data), formats=FORMATS)  # verify uses the first one up
    except Exception as error:  # noqa: BLE001 - as in _open
        raise _unreadable(error) from None


def _gray(image: Image.Image, side: int) -> Image.Image:
    negative = _is_deep_negative(image)
    try:
        if image.format in ("JPEG", "MPO"):
            # libjpeg decodes at 1/2, 1/4 or 1/8, the smallest that still covers the square, and to gray at once
            image.draft("L", (side, side))
        image.load()
        image = ImageOps.exif_transpose(image)
        gray = _to_gray(image)
        return ImageOps.invert(gray) if negative else gray
    except Exception as error:  # noqa: BLE001 - as in _open: a damaged body raises whatever it leads a decoder to
        raise _unreadable(error) from None


def _is_deep_negative(image: Image.Image) -> bool:
    """A TIFF of more than 8 bits whose zero is white; Pillow turns only those of up to 8 bits round."""
    photometric = getattr(image, "tag_v2", {}).get(TIFF_PHOTOMETRIC)
    return image.mode.startswith(DEEP) and photometric == TIFF_WHITE_IS_ZERO


def _to_gray(image: Image.Image) -> Image.Image:
    if image.mode.startswith(DEEP):
        return _scale_to_bytes(np.asarray(image, dtype=np.float64))
    if image.has_transparency_data:  # what does not show is black, like the padding of a DICOM film
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image.convert("RGBA"))
    return image if image.mode == "L" else image.convert("L")


def _scale_to_bytes(values: NDArray[np.float64]) -> Image.Image:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("pixels that are no numbers")
    span = (high - low) or 1.0
    return Image.fromarray(np.round((values - low) * (255.0 / span)).astype(np.uint8))


def _unreadable(error: Exception) -> FilmRejected:
    if isinstance(error, MemoryError):
        return FilmRejected("too_large", TOO_MUCH_MEMORY)
    return FilmRejected("unreadable", "The image is damaged or incomplete; send the film again.")
