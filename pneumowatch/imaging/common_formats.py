"""Films that are common images, read with Pillow."""

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
SUPPORTED_FORMATS: Final = "JPEG, JPEG 2000, PNG, TIFF, BMP, GIF or DICOM"  # for people
SIGNATURES: Final = (
    codecs.JPEG_START, codecs.JPEG2000_START, codecs.JP2_SIGNATURE, b"\x89PNG\r\n\x1a\n", b"GIF8",
    b"II*\0", b"MM\0*", b"II+\0", b"MM\0+",
)  # fmt: skip
SMALLEST_SIDE: Final = 32  # pixels; thumbnails and icons show no lung that could be read
DAMAGED_SENTENCE: Final = "The image is damaged"
DEEP_MODES: Final = ("I", "F")  # how Pillow's modes of more than 8 bits begin
LUMINANCE: Final = np.array([0.299, 0.587, 0.114])  # of red, green and blue, ITU-R 601-2
BAND_PIXELS: Final = 2**20  # pixels that are scaled at a time
PNG_BITS, PNG_COLOUR = 24, 25  # where a PNG's bits a sample and its colour type stand
PNG_GRAY: Final = 0
SAMPLES_2000: Final = 42  # where, after its start, a JPEG 2000 codestream has the bits of its first component, less one
TIFF_BITS: Final = 258
TIFF_PHOTOMETRIC: Final = 262  # the tag that says what zero means
TIFF_WHITE_IS_ZERO: Final = 0
TIFF_PLANAR: Final = 284  # the tag that says whether one component stands after another
TIFF_PLANES: Final = 2
TIFF_SAMPLE_FORMAT: Final = 339
TIFF_UNSIGNED: Final = (1,)
ORIENTATION: Final = 0x0112  # the EXIF tag

# Our own bound, checked before a pixel is decoded, replaces Pillow's: that one only warns below twice its value.
Image.MAX_IMAGE_PIXELS = None


def read_common_format(data: bytes, side: int, max_pixels: int) -> Image.Image:
    """The film as an 8-bit gray image, at least `side` wide and high where the film is: a JPEG is reduced on the way.

    Raises:
        ImageRejected: `unsupported`, `unreadable`, `too_large` or `no_pixels`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd metadata is common in films and changes no pixel
        if codecs.is_deep_jpeg(data):
            return _deep_jpeg(data, max_pixels)
        return _gray(_open(data, max_pixels), data, side)


def _deep_jpeg(data: bytes, max_pixels: int) -> Image.Image:
    """12-bit and lossless JPEG, which Pillow does not read."""
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
                "unreadable", f"{DAMAGED_SENTENCE} or of a rare kind; save it anew and send it again."
            ) from None
        raise ImageRejected(
            "unsupported", f"This is no film of a kind that is read here: {SUPPORTED_FORMATS}."
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
            "no_pixels", f"The picture has {width} x {height} pixels, a thumbnail; send the film itself."
        )
    if width * height > max_pixels:
        raise ImageRejected("too_large", f"The film has {width} x {height} pixels; at most {max_pixels:,} are read.")


def _verified_png(image: Image.Image, data: bytes) -> Image.Image:
    """A PNG whose check sums hold. Pillow skips those of the pixels: a file whose end is still zeros, as a copy that
    reserved its space leaves it, would pass for a film that is half black."""
    try:
        image.verify()
        return Image.open(io.BytesIO(data), formats=FORMATS)  # verify uses the first one up
    except Exception as error:  # noqa: BLE001 - as in _open
        raise _unreadable(error) from None


def _gray(image: Image.Image, data: bytes, side: int) -> Image.Image:
    negative = _is_deep_negative(image)
    try:
        if _is_beyond_pillow(image, data):
            gray = _oriented(_scale_to_bytes(_full_depth_values(image, data)), image)
        else:
            if image.format == "JPEG":
                # libjpeg decodes at 1/2, 1/4 or 1/8, the smallest that still covers the square, and to gray at once
                image.draft("L", (side, side))
            image.load()
            gray = _to_gray(ImageOps.exif_transpose(image))
        return ImageOps.invert(gray) if negative else gray
    except Exception as error:  # noqa: BLE001 - as in _open: a damaged body raises whatever it leads a decoder to
        raise _unreadable(error) from None


def _is_beyond_pillow(image: Image.Image, data: bytes) -> bool:
    """Whether Pillow would clip the values: it gives the upper 8 bits of colour, or gray with alpha, that has more (a
    film that uses 12 of 16 would be black), and unsigned 32 bits as signed."""
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
    """All bits of what Pillow would clip: (height, width), or with samples behind it."""
    import imagecodecs  # late, as in codecs

    if image.format == "TIFF":
        values = imagecodecs.tiff_decode(data)
        is_planar = values.ndim == 3 and image.tag_v2.get(TIFF_PLANAR) == TIFF_PLANES  # type: ignore[attr-defined]
        return np.moveaxis(values, 0, -1) if is_planar else values
    return imagecodecs.png_decode(data) if image.format == "PNG" else imagecodecs.jpeg2k_decode(data)


def _oriented(gray: Image.Image, original: Image.Image) -> Image.Image:
    """As the original's EXIF orientation says."""
    gray.getexif()[ORIENTATION] = original.getexif().get(ORIENTATION, 1)
    return ImageOps.exif_transpose(gray)


def _is_deep_negative(image: Image.Image) -> bool:
    """A TIFF of more than 8 bits whose zero is white; Pillow turns only those of up to 8 bits round."""
    photometric = getattr(image, "tag_v2", {}).get(TIFF_PHOTOMETRIC)
    return image.mode.startswith(DEEP_MODES) and photometric == TIFF_WHITE_IS_ZERO


def _to_gray(image: Image.Image) -> Image.Image:
    if image.mode.startswith(DEEP_MODES):
        return _scale_to_bytes(np.asarray(image))
    if image.has_transparency_data:  # what does not show is black, like the padding of a DICOM film
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image.convert("RGBA"))
    return image if image.mode == "L" else image.convert("L")


def _scale_to_bytes(values: NDArray[Any]) -> Image.Image:
    """Values of any type, (height, width) or with samples behind it, from the film's own minimum and maximum to 0 and
    255. In bands: whole in floating point they would be many times the film."""
    ranges = [(band.min(), band.max()) for band in _bands(values)]
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    if not np.isfinite([low, high]).all():
        raise ValueError("pixels that are no numbers")
    span = (high - low) or 1.0
    return Image.fromarray(
        np.concatenate([np.round((band - low) * (255.0 / span)).astype(np.uint8) for band in _bands(values)])
    )


def _bands(values: NDArray[Any]) -> Iterator[NDArray[np.float64]]:
    """The gray values, some rows at a time: colour as its luminance; what does not show is black."""
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
    return ImageRejected("unreadable", f"{DAMAGED_SENTENCE} or incomplete; send the film again.")
