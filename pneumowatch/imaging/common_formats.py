"""Read image files of common formats, with Pillow."""

import io
import warnings
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from pneumowatch.errors import TOO_MUCH_MEMORY, ImageRejected
from pneumowatch.imaging import codecs

FORMATS: Final = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "JPEG2000")
SUPPORTED_FORMATS: Final = "JPEG, JPEG 2000, PNG, TIFF, BMP, GIF or DICOM"  # for messages
SIGNATURES: Final = (
    codecs.JPEG_START, codecs.JPEG2000_START, codecs.JP2_SIGNATURE, b"\x89PNG\r\n\x1a\n", b"GIF8",
    b"II*\0", b"MM\0*", b"II+\0", b"MM\0+",
)  # fmt: skip
SMALLEST_SIDE: Final = 32  # pixels; smaller ones are thumbnails and icons
DAMAGED_SENTENCE: Final = "The image is damaged"
DEEP_MODES: Final = ("I", "F")  # prefixes of Pillow's modes of more than 8 bits
LUMINANCE: Final = np.array([0.299, 0.587, 0.114])  # of red, green and blue, ITU-R 601-2
BAND_PIXELS: Final = 2**20  # pixels that are scaled at once
PNG_BITS, PNG_COLOUR = 24, 25  # offsets of a PNG's bits per sample and colour type
PNG_GRAY: Final = 0
SAMPLES_2000: Final = 42  # offset in a JPEG 2000 codestream of its first component's bits, less one
TIFF_BITS: Final = 258
TIFF_PHOTOMETRIC: Final = 262  # the tag that says whether zero is black or white
TIFF_WHITE_IS_ZERO: Final = 0
TIFF_PLANAR: Final = 284  # the tag that says whether each component is stored separately
TIFF_PLANES: Final = 2
TIFF_SAMPLE_FORMAT: Final = 339
TIFF_UNSIGNED: Final = (1,)
ORIENTATION: Final = 0x0112  # the EXIF tag

# `_check_size` replaces Pillow's limit, which only warns up to twice its value.
Image.MAX_IMAGE_PIXELS = None


def read_common_format(data: bytes, side: int, max_pixels: int) -> Image.Image:
    """Read an image file as 8-bit gray.

    A JPEG may be reduced while it is decoded, but stays at least `side` pixels wide and high where it is that large.

    Raises:
        ImageRejected: `unsupported`, `unreadable`, `too_large` or `no_pixels`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd metadata is common in such files and changes no pixel
        if codecs.is_deep_jpeg(data):
            return _deep_jpeg(data, max_pixels)
        return _gray(_open(data, max_pixels), data, side)


def _deep_jpeg(data: bytes, max_pixels: int) -> Image.Image:
    """Read a 12-bit or lossless JPEG, which Pillow cannot."""
    width, height = codecs.jpeg_size(data)
    _check_size(width, height, max_pixels)
    try:
        values = codecs.decode_frame(data, height, width, is_rgb=True)
        if values.itemsize > 1:
            return _scale_to_bytes(values)
        return Image.fromarray(values if values.ndim == 2 else np.round(values @ LUMINANCE).astype(np.uint8))
    except Exception as error:  # noqa: BLE001 - as in _open
        raise _unreadable(error) from None


def _open(data: bytes, max_pixels: int) -> Image.Image:
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        if data.startswith(SIGNATURES):
            raise ImageRejected(
                "unreadable", f"{DAMAGED_SENTENCE} or of a rare kind; export it again and send it."
            ) from None
        raise ImageRejected(
            "unsupported", f"This file is not an image of a supported format: {SUPPORTED_FORMATS}."
        ) from None
    except Exception as error:  # noqa: BLE001 - a damaged header raises SyntaxError, struct.error, KeyError, ...
        raise _unreadable(error) from None
    if image.format == "PNG":
        image = _verified_png(image, data)
    _check_size(*image.size, max_pixels)
    return image


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if min(width, height) < SMALLEST_SIDE:
        raise ImageRejected(
            "no_pixels", f"The image has only {width} x {height} pixels, like a thumbnail; send the original image."
        )
    if width * height > max_pixels:
        raise ImageRejected(
            "too_large", f"The image has {width} x {height} pixels; at most {max_pixels:,} are allowed."
        )


def _verified_png(image: Image.Image, data: bytes) -> Image.Image:
    """Return a PNG after verifying its checksums.

    Pillow skips those of the pixels: a file that is still being copied, with zeros at its end where the copy reserved
    the space, would be read as an image that is half black.
    """
    try:
        image.verify()
        return Image.open(io.BytesIO(data), formats=FORMATS)  # `verify` leaves the first one unusable
    except Exception as error:  # noqa: BLE001 - as in _open
        raise _unreadable(error) from None


def _gray(image: Image.Image, data: bytes, side: int) -> Image.Image:
    negative = _is_deep_negative(image)
    try:
        if _is_beyond_pillow(image, data):
            gray = _oriented(_scale_to_bytes(_full_depth_values(image, data)), image)
        else:
            if image.format == "JPEG":
                # libjpeg decodes to gray at 1/2, 1/4 or 1/8: the smallest size that still covers the square
                image.draft("L", (side, side))
            image.load()
            gray = _to_gray(ImageOps.exif_transpose(image))
        return ImageOps.invert(gray) if negative else gray
    except Exception as error:  # noqa: BLE001 - as in _open: damaged pixels raise many kinds of errors
        raise _unreadable(error) from None


def _is_beyond_pillow(image: Image.Image, data: bytes) -> bool:
    """Tell whether Pillow would clip the values.

    Of colour and of gray with alpha it keeps only the upper 8 bits (an image that uses 12 of 16 would be black), and it
    reads unsigned 32 bits as signed.
    """
    if image.format == "TIFF":
        bits = image.tag_v2.get(TIFF_BITS, (1,))  # type: ignore[attr-defined]
        unsigned = image.tag_v2.get(TIFF_SAMPLE_FORMAT, TIFF_UNSIGNED) == TIFF_UNSIGNED  # type: ignore[attr-defined]
        return max(bits) > 8 and (not image.mode.startswith(DEEP_MODES) or (unsigned and bits == (32,)))
    if image.mode.startswith(DEEP_MODES):
        return False
    if image.format == "PNG":
        return data[PNG_BITS] == 16 and data[PNG_COLOUR] != PNG_GRAY
    return image.format == "JPEG2000" and data[data.index(codecs.JPEG2000_START) + SAMPLES_2000] & 0x7F >= 8


def _full_depth_values(image: Image.Image, data: bytes) -> codecs.StoredValues:
    """Return all bits of an image that Pillow would clip: (height, width) or (height, width, samples)."""
    import imagecodecs  # imported late, as in codecs

    if image.format == "TIFF":
        values = imagecodecs.tiff_decode(data)
        is_planar = values.ndim == 3 and image.tag_v2.get(TIFF_PLANAR) == TIFF_PLANES  # type: ignore[attr-defined]
        return np.moveaxis(values, 0, -1) if is_planar else values
    return imagecodecs.png_decode(data) if image.format == "PNG" else imagecodecs.jpeg2k_decode(data)


def _oriented(gray: Image.Image, original: Image.Image) -> Image.Image:
    """Turn an image as the EXIF orientation of the original says."""
    gray.getexif()[ORIENTATION] = original.getexif().get(ORIENTATION, 1)
    return ImageOps.exif_transpose(gray)


def _is_deep_negative(image: Image.Image) -> bool:
    """Tell whether this TIFF has more than 8 bits and its zero is white; Pillow inverts only those of up to 8 bits."""
    photometric = getattr(image, "tag_v2", {}).get(TIFF_PHOTOMETRIC)
    return image.mode.startswith(DEEP_MODES) and photometric == TIFF_WHITE_IS_ZERO


def _to_gray(image: Image.Image) -> Image.Image:
    if image.mode.startswith(DEEP_MODES):
        return _scale_to_bytes(np.asarray(image))
    if image.has_transparency_data:  # transparent pixels become black, like the padding of a DICOM image
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image.convert("RGBA"))
    return image if image.mode == "L" else image.convert("L")


def _scale_to_bytes(values: NDArray[Any]) -> Image.Image:
    """Scale values linearly, from the image's own minimum and maximum to 0 and 255.

    Values: any numeric type, (height, width) or (height, width, samples). They are scaled in bands of rows: as floats,
    the whole image would take many times its memory.
    """
    ranges = [(band.min(), band.max()) for band in _bands(values)]
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    if not np.isfinite([low, high]).all():
        raise ValueError("pixels that are not finite")
    span = (high - low) or 1.0
    return Image.fromarray(
        np.concatenate([np.round((band - low) * (255.0 / span)).astype(np.uint8) for band in _bands(values)])
    )


def _bands(values: NDArray[Any]) -> Iterator[NDArray[np.float64]]:
    """Yield the gray values, some rows at a time: the luminance of colour; transparent pixels are black."""
    rows = max(1, BAND_PIXELS // values.shape[1])
    for top in range(0, len(values), rows):
        band = values[top : top + rows].astype(np.float64)
        if band.ndim == 2:
            yield band
            continue
        gray = band[..., :3] @ LUMINANCE if band.shape[-1] > 2 else band[..., 0]
        yield gray * (band[..., -1] / np.iinfo(values.dtype).max) if band.shape[-1] in (2, 4) else gray


def _unreadable(error: Exception) -> ImageRejected:
    if isinstance(error, MemoryError):
        return ImageRejected("too_large", TOO_MUCH_MEMORY)
    return ImageRejected("unreadable", f"{DAMAGED_SENTENCE} or incomplete; send it again.")
