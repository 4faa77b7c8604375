"""Films kept: the reduced film of a scan as it was decoded, and where the model looked, under the hash of its bytes.

`DATA_DIR/films/<sha256>.png` is 8-bit gray, (side, side). Where the model has maps, the film's own stands in it as a
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

from pneumowatch.film import Pixels

FOLDER: Final = "films"  # beneath the data folder
FILM: Final = ".png"
MAP: Final = "activation map"  # the text's keyword
UNFINISHED: Final = ".unfinished-"
MODE: Final = 0o640  # these are patients' films: nobody else's to read
DAMAGED: Final = (OSError, SyntaxError, ValueError)  # as Pillow says of a PNG
HEAD: Final = 33  # bytes of a PNG's signature and first chunk, IHDR, behind which others may stand


def path(data_dir: Path, sha256: str) -> Path:
    return data_dir / FOLDER / f"{sha256}{FILM}"


def write(data_dir: Path, sha256: str, pixels: Pixels, logits: NDArray[np.floating[Any]] | None = None) -> None:
    """Keep a film, uint8 (side, side), and its map of logits, float (h, w); what was kept of it before is replaced.

    Raises OSError, of which a full disk is one.
    """
    made = png(pixels)
    if logits is not None:
        made = made[:HEAD] + _text(MAP, b64encode(png(_shades(logits)))) + made[HEAD:]
    _write(path(data_dir, sha256), made)


def read(data_dir: Path, sha256: str) -> Pixels | None:
    """The film, uint8 (side, side); None where none is kept, or it is damaged."""
    return _gray(path(data_dir, sha256))


def read_map(data_dir: Path, sha256: str) -> Pixels | None:
    """The map of its places' probabilities, uint8 (h, w); None where there is none, or it is damaged."""
    try:
        with Image.open(path(data_dir, sha256), formats=["PNG"]) as picture:
            return _gray(BytesIO(b64decode(picture.info[MAP], validate=True)))
    except (KeyError, *DAMAGED):
        return None


def png(gray: Pixels) -> bytes:
    """An 8-bit gray picture, as quickly as can be at about its smallest."""
    return bytes(png_encode(gray, level=1, strategy=PNG.STRATEGY.HUFFMAN_ONLY, filter=PNG.FILTER.PAETH))


def _text(keyword: str, text: bytes) -> bytes:
    """A PNG's text chunk (PNG specification, 11.3.3.2)."""
    chunk = b"tEXt" + keyword.encode("ascii") + b"\0" + text
    return (len(chunk) - 4).to_bytes(4, "big") + chunk + crc32(chunk).to_bytes(4, "big")


def _shades(logits: NDArray[np.floating[Any]]) -> Pixels:
    # by the hyperbolic tangent, which does not overflow
    return np.rint(255 * (0.5 + 0.5 * np.tanh(np.asarray(logits, np.float64) / 2))).astype(np.uint8)


def _write(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, unfinished = tempfile.mkstemp(prefix=UNFINISHED, dir=file.parent)
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(data)
            os.fchmod(out.fileno(), MODE)
        Path(unfinished).replace(file)
    except BaseException:
        with suppress(OSError):
            Path(unfinished).unlink()
        raise


def _gray(file: Path | BytesIO) -> Pixels | None:
    try:
        with Image.open(file, formats=["PNG"]) as picture:
            gray = np.asarray(picture)
    except DAMAGED:
        return None
    return gray if gray.ndim == 2 and gray.dtype == np.uint8 else None
