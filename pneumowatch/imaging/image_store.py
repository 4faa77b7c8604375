"""Store the reduced image of a scan with its activation map, under the hash of the scan's file.

`DATA_DIR/images/<sha256>.png` is 8-bit gray, (side, side). Where the model has activation maps, a text chunk of the
file holds the image's own: as a PNG in base64, 8-bit gray in the map's size, the probability at each place, 255 being
1. Both are in one file, as creating a file costs more than encoding its pixels. A file is complete or does not exist.
"""

import os
import tempfile
from base64 import b64decode, b64encode
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import numpy as np
from imagecodecs import PNG, png_encode
from numpy.typing import NDArray
from PIL import Image

from pneumowatch.imaging.reader import Pixels

IMAGES_FOLDER: Final = "images"  # in the data folder
IMAGE_SUFFIX: Final = ".png"
MAP_KEYWORD: Final = "activation map"  # keyword of the text chunk
UNFINISHED_PREFIX: Final = ".unfinished-"
FILE_MODE: Final = 0o640  # patients' images: other users may not read them
PNG_ERRORS: Final = (OSError, SyntaxError, ValueError)  # that Pillow raises for a damaged PNG
PNG_HEADER_BYTES: Final = 33  # signature and first chunk (IHDR); other chunks may follow


def image_path(data_dir: Path, sha256: str) -> Path:
    return data_dir / IMAGES_FOLDER / f"{sha256}{IMAGE_SUFFIX}"


def store_image(data_dir: Path, sha256: str, pixels: Pixels, logits: NDArray[np.floating[Any]] | None = None) -> None:
    """Store an image, uint8 (side, side), and its map of logits, float (h, w). Replaces an earlier file.

    Raises OSError, also where the disk is full.
    """
    encoded = encode_png(pixels)
    if logits is not None:
        encoded = (
            encoded[:PNG_HEADER_BYTES]
            + _text_chunk(MAP_KEYWORD, b64encode(encode_png(_probabilities_as_gray(logits))))
            + encoded[PNG_HEADER_BYTES:]
        )
    _write_atomically(image_path(data_dir, sha256), encoded)


def load_image(data_dir: Path, sha256: str) -> Pixels | None:
    """Return the image, uint8 (side, side); None where none is stored, or it is damaged."""
    return _load_gray(image_path(data_dir, sha256))


def load_activation_map(data_dir: Path, sha256: str) -> Pixels | None:
    """Return the map of probabilities, uint8 (h, w), 255 being 1; None where there is none, or it is damaged."""
    try:
        with Image.open(image_path(data_dir, sha256), formats=["PNG"]) as image:
            return _load_gray(BytesIO(b64decode(image.info[MAP_KEYWORD], validate=True)))
    except (KeyError, *PNG_ERRORS):
        return None


def encode_png(gray: Pixels) -> bytes:
    """Encode 8-bit gray pixels, with the fastest options that come close to the smallest size."""
    return bytes(png_encode(gray, level=1, strategy=PNG.STRATEGY.HUFFMAN_ONLY, filter=PNG.FILTER.PAETH))


def _text_chunk(keyword: str, text: bytes) -> bytes:
    """Return a text chunk of a PNG (PNG specification, 11.3.3.2)."""
    chunk = b"tEXt" + keyword.encode("ascii") + b"\0" + text
    return (len(chunk) - 4).to_bytes(4, "big") + chunk + crc32(chunk).to_bytes(4, "big")


def _probabilities_as_gray(logits: NDArray[np.floating[Any]]) -> Pixels:
    # the logistic function, written with tanh, which does not overflow
    return np.rint(255 * (0.5 + 0.5 * np.tanh(np.asarray(logits, np.float64) / 2))).astype(np.uint8)


def _write_atomically(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, unfinished = tempfile.mkstemp(prefix=UNFINISHED_PREFIX, dir=file.parent)
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(data)
            os.fchmod(out.fileno(), FILE_MODE)
        Path(unfinished).replace(file)
    except BaseException:
        with suppress(OSError):
            Path(unfinished).unlink()
        raise


def _load_gray(file: Path | BytesIO) -> Pixels | None:
    try:
        with Image.open(file, formats=["PNG"]) as image:
            gray = np.asarray(image)
    except PNG_ERRORS:
        return None
    return gray if gray.ndim == 2 and gray.dtype == np.uint8 else None
