"""Writes docs/evidence/formats.md: which films are read, held against known pixels, and which are refused (`make formats`).

Every row comes from a file that was made, read and compared just now; the command fails where one is not as it should.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from pydicom import uid

from formats import common_images, dicom_films, refused, same_film
from pneumowatch.errors import ImageRejected
from pneumowatch.imaging import reader

PAGE = Path(__file__).parents[2] / "docs" / "evidence" / "formats.md"
OPENING = """# What is read

Kinds are told by content; a file's name is never looked at. Written by `make formats`: each row is a file that is made,
read and compared with what it is known to show. "exact" means every gray level of every pixel.
"""
DICOM = """
## DICOM

With preamble and meta group or without. Of several windows the first counts; a VOI LUT goes before a window; without
either, the range of the values that occur is shown, padding left out. Padding is black. Colour is shown as its ITU-R
601-2 luminance. Modalities CR, DX, DR, RG and OT are read, and objects that do not say; frontal views, decubitus views
too, and objects that do not say; the chest, and what is not known to be another part of the body.

Compressed pixels are decoded by imagecodecs (BSD), common JPEG by Pillow.

| transfer syntax | film | read |
|---|---|---|
"""
SAME = """
## The same film

One phantom film, as the shipped model reads it (`pneumowatch classify`):

| as | probability |
|---|---|
"""
IMAGES = """
## Common images

More than 8 bits are scaled from the film's own minimum and maximum, by content, not clipped.

| kind | film | read |
|---|---|---|
"""
REFUSED = """
## Refused

| object or file | code |
|---|---|
"""


def page() -> str:
    return "\n".join([OPENING, *_dicom(), *_same(), *_images(), *_refused(), ""]).replace("\n\n\n", "\n\n")


def _dicom() -> Iterator[str]:
    yield DICOM.rstrip("\n")
    for case in dicom_films.cases():
        yield f"| {uid.UID(case.syntax).name} | {case.what} | {_verdict(case.off(), case.tolerance, case.what)} |"


def _same() -> Iterator[str]:
    yield SAME.rstrip("\n")
    with tempfile.TemporaryDirectory() as folder:
        found = same_film.probabilities(Path(folder))
    if len(set(found.values())) != 1:
        sys.exit(f"The same film has several probabilities: {found}")
    yield from (f"| {name} | the same |" for name in found)


def _images() -> Iterator[str]:
    yield IMAGES.rstrip("\n")
    for case in common_images.cases():
        yield f"| {case.kind} | {case.what} | {_verdict(case.off(), case.tolerance, case.what)} |"


def _refused() -> Iterator[str]:
    yield REFUSED.rstrip("\n")
    for case in (*refused.cases(), *common_images.refused()):
        try:
            reader.read_image(case.data, 48, refused.MAX_PIXELS)
        except ImageRejected as fault:
            if fault.reason == case.reason:
                yield f"| {case.what} | `{case.reason}` |"
                continue
        sys.exit(f"Not refused as it should be: {case.what}")


def _verdict(off: int, tolerance: int, what: str) -> str:
    if off > tolerance:
        sys.exit(f"Read wrongly: {what} is {off} gray levels off, {tolerance} are allowed.")
    return f"within {tolerance} gray levels" if tolerance else "exact"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
    print(f"Written to docs/{PAGE.name}.")
