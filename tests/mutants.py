"""Make damaged images from whole ones by a seed: the same seed gives the same file on every machine.

python tests/mutants.py FOLDER COUNT [--first SEED]
"""

import argparse
import io
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image
from pydicom import uid
from support import dicom_files

from pneumowatch.imaging.phantom import draw_phantom

SIZE: Final = (96, 72)
ODD_NUMBERS: Final = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)

Mutation = Callable[[random.Random, bytearray], None]


@cache
def whole() -> tuple[bytes, ...]:
    """Return images of every file format and DICOM encoding, of hundreds of bytes to some ten thousand."""
    gray = draw_phantom(9, True, *SIZE)
    picture, deep = Image.fromarray(gray), gray.astype(np.uint16) * 257
    files = [_saved(picture, kind) for kind in ("JPEG", "PNG", "TIFF", "GIF", "BMP", "JPEG2000")]
    files += [_saved(picture, "JPEG", progressive=True), _saved(picture.convert("CMYK"), "JPEG")]
    files += [_saved(Image.fromarray(deep), "PNG"), _saved(Image.fromarray(deep), "TIFF", compression="tiff_lzw")]
    syntaxes = (
        *dicom_files.NATIVE, uid.RLELossless, uid.JPEGBaseline8Bit, uid.JPEGLosslessSV1, uid.JPEGLSLossless,
        uid.JPEG2000Lossless, uid.HTJ2KLossless,
    )  # fmt: skip
    files += [dicom_files.make_dicom(gray, syntax, 8) for syntax in syntaxes]
    files += [dicom_files.make_dicom(deep, syntax, 16) for syntax in (uid.ExplicitVRLittleEndian, uid.JPEG2000Lossless)]
    return tuple(files)


def mutant(seed: int) -> bytes:
    """Return an image with one to four kinds of damage."""
    chance = random.Random(seed)
    data = bytearray(chance.choice(whole()))
    for _ in range(chance.choice((1, 1, 2, 4))):
        if data:
            chance.choice(MUTATIONS)(chance, data)
    return bytes(data)


def write(folder: Path, count: int, first: int = 0) -> list[Path]:
    """Write mutants of the seeds from `first` on, each named after its seed."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"mutant-{seed:06d}" for seed in range(first, first + count)]
    for seed, path in enumerate(paths, start=first):
        path.write_bytes(mutant(seed))
    return paths


def _cut(chance: random.Random, data: bytearray) -> None:
    del data[chance.randrange(len(data)) :]


def _flip(chance: random.Random, data: bytearray) -> None:
    for _ in range(chance.choice((1, 3, 30))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _flip_head(chance: random.Random, data: bytearray) -> None:
    for _ in range(chance.choice((1, 2, 5))):
        data[chance.randrange(min(len(data), 700))] = chance.randrange(256)


def _odd_number(chance: random.Random, data: bytearray) -> None:
    """Overwrite two or four bytes, little- or big-endian, with an odd length or count."""
    size, order = chance.choice((2, 4)), chance.choice(("little", "big"))
    at = chance.randrange(min(len(data), 1500))
    data[at : at + size] = (chance.choice(ODD_NUMBERS) & (256**size - 1)).to_bytes(size, order)  # type: ignore[arg-type]


def _repeat(chance: random.Random, data: bytearray) -> None:
    start = chance.randrange(len(data))
    data[start:start] = data[start : start + chance.randrange(1, 400)] * chance.choice((1, 2, 50))


def _lose(chance: random.Random, data: bytearray) -> None:
    start = chance.randrange(len(data))
    del data[start : start + chance.randrange(1, 400)]


def _blank(chance: random.Random, data: bytearray) -> None:
    """Zero the end, as a copy leaves it that reserved its space and stopped."""
    start = chance.randrange(len(data))
    data[start:] = bytes(len(data) - start)


def _splice(chance: random.Random, data: bytearray) -> None:
    other = chance.choice(whole())
    data[chance.randrange(len(data)) :] = other[chance.randrange(len(other)) :]


MUTATIONS: Final[tuple[Mutation, ...]] = (_cut, _flip, _flip_head, _odd_number, _repeat, _lose, _blank, _splice)


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("count", type=int)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    given = parser.parse_args()
    print(f"{len(write(given.folder, given.count, given.first))} damaged images in {given.folder}")


if __name__ == "__main__":
    main()
