"""Films kept: the reduced film of a scan as it was decoded, and where the model looked, under the hash of its bytes.

`DATA_DIR/images/<sha256>.png` is 8-bit gray, (side, side). Where the model has maps, the film's own stands in it as a
text chunk: itself a PNG, in base64, 8-bit gray of the map's own size, the probability of each place, 255 being 1. One
file, because to create one costs more than to encode its pixels; it is complete or not there.
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

IMAGES_FOLDER: Final = "images"  # beneath the data folder
IMAGE_SUFFIX: Final = ".png"
MAP_KEYWORD: Final = "activation map"  # the text's keyword
UNFINISHED_PREFIX: Final = ".unfinished-"
FILE_MODE: Final = 0o640  # these are patients' films: nobody else's to read
PNG_ERRORS: Final = (OSError, SyntaxError, ValueError)  # as Pillow says of a PNG
PNG_HEADER_BYTES: Final = 33  # bytes of a PNG's signature and first chunk, IHDR, behind which others may stand


def image_path(data_dir: Path, sha256: str) -> Path:
    return data_dir / IMAGES_FOLDER / f"{sha256}{IMAGE_SUFFIX}"


def store_image(data_dir: Path, sha256: str, pixels: Pixels, logits: NDArray[np.floating[Any]] | None = None) -> None:
    """Keep a film, uint8 (side, side), and its map of logits, float (h, w); what was kept of it before is replaced.

    Raises OSError, of which a full disk is one.
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
    """The film, uint8 (side, side); None where none is kept, or it is damaged."""
    return _load_gray(image_path(data_dir, sha256))


def load_activation_map(data_dir: Path, sha256: str) -> Pixels | None:
    """The map of its places' probabilities, uint8 (h, w); None where there is none, or it is damaged."""
    try:
        with Image.open(image_path(data_dir, sha256), formats=["PNG"]) as image:
            return _load_gray(BytesIO(b64decode(image.info[MAP_KEYWORD], validate=True)))
    except (KeyError, *PNG_ERRORS):
        return None


def encode_png(gray: Pixels) -> bytes:
    """An 8-bit gray picture, as quickly as can be at about its smallest."""
    return bytes(png_encode(gray, level=1, strategy=PNG.STRATEGY.HUFFMAN_ONLY, filter=PNG.FILTER.PAETH))


def _text_chunk(keyword: str, text: bytes) -> bytes:
    """A PNG's text chunk (PNG specification, 11.3.3.2)."""
    chunk = b"tEXt" + keyword.encode("ascii") + b"\0" + text
    return (len(chunk) - 4).to_bytes(4, "big") + chunk + crc32(chunk).to_bytes(4, "big")


def _probabilities_as_gray(logits: NDArray[np.floating[Any]]) -> Pixels:
    # by the hyperbolic tangent, which does not overflow
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
