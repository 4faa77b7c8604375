"""Films kept: the reduced film of a scan as it was decoded, and where the model looked, under the hash of its bytes.

`DATA_DIR/films/<sha256>.png` is 8-bit gray, (side, side); `<sha256>.map.png` beside it, where the model has maps, is
8-bit gray of the map's own size: the probability of each place, 255 being 1. A file is complete or not there.
"""

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pneumowatch.film import Pixels

FOLDER: Final = "films"  # beneath the data folder
FILM, MAP = ".png", ".map.png"
UNFINISHED: Final = ".unfinished-"
MODE: Final = 0o640  # these are patients' films: nobody else's to read
QUICK: Final = 1  # zlib's level: six would take three times as long for a tenth less


def path(data_dir: Path, sha256: str) -> Path:
    return data_dir / FOLDER / f"{sha256}{FILM}"


def map_path(data_dir: Path, sha256: str) -> Path:
    return data_dir / FOLDER / f"{sha256}{MAP}"


def paths(data_dir: Path, sha256: str) -> tuple[Path, Path]:
    """Where a film and its map are, if they are."""
    return path(data_dir, sha256), map_path(data_dir, sha256)


def write(data_dir: Path, sha256: str, pixels: Pixels, logits: NDArray[np.floating[Any]] | None = None) -> None:
    """Keep a film, uint8 (side, side), and its map of logits, float (h, w); what was kept of it before is replaced.

    Raises OSError, of which a full disk is one.
    """
    _write(map_path(data_dir, sha256), None if logits is None else _shades(logits))
    _write(path(data_dir, sha256), pixels)  # last: where it is there, its map is its own


def read(data_dir: Path, sha256: str) -> Pixels | None:
    """The film, uint8 (side, side); None where none is kept, or it is damaged."""
    return _read(path(data_dir, sha256))


def read_map(data_dir: Path, sha256: str) -> Pixels | None:
    """The map of its places' probabilities, uint8 (h, w); None where there is none, or it is damaged."""
    return _read(map_path(data_dir, sha256))


def _shades(logits: NDArray[np.floating[Any]]) -> Pixels:
    # by the hyperbolic tangent, which does not overflow
    return np.rint(255 * (0.5 + 0.5 * np.tanh(np.asarray(logits, np.float64) / 2))).astype(np.uint8)


def _write(file: Path, gray: Pixels | None) -> None:
    if gray is None:
        file.unlink(missing_ok=True)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, unfinished = tempfile.mkstemp(prefix=UNFINISHED, dir=file.parent)
    try:
        with os.fdopen(descriptor, "wb") as out:
            Image.fromarray(gray).save(out, "PNG", compress_level=QUICK)
            os.fchmod(out.fileno(), MODE)
        Path(unfinished).replace(file)
    except BaseException:
        with suppress(OSError):
            Path(unfinished).unlink()
        raise


def _read(file: Path) -> Pixels | None:
    try:
        with Image.open(file, formats=["PNG"]) as picture:
            gray = np.asarray(picture)
    except (OSError, SyntaxError, ValueError):  # as Pillow says of a damaged PNG
        return None
    return gray if gray.ndim == 2 and gray.dtype == np.uint8 else None
