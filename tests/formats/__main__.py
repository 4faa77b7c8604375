"""Write docs/evidence/formats.md: which image files are read, how exactly, and which are rejected (`make formats`).

Every row comes from a file that this run made, read and compared. The command fails if one is not read as expected.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from pydicom import uid

from formats import common_images, dicom_images, refused, same_image
from pneumowatch.errors import ImageRejected
from pneumowatch.imaging import reader

PAGE = Path(__file__).parents[2] / "docs" / "evidence" / "formats.md"
OPENING = """# Image formats

A file's format is detected by its content, never by its name. This page is written by `make formats`: for each row a
file is made, read and compared with its known gray levels. "exact" means that every pixel has its exact gray level.
"""
DICOM = """
## DICOM

Objects are read with preamble and meta group or without. If there are several windows, the first is used; a VOI LUT
takes precedence over a window; without either, the range of the values that occur is used, without padding. Padding is
black. Colour is converted to its ITU-R 601-2 luminance. An object is read if its modality is CR, DX, DR, RG or OT, or
not given; if its view is frontal, including decubitus, or not given; and if its body part is the chest, or is not known
to be another part of the body.

Compressed pixels are decoded by imagecodecs (BSD), common JPEG by Pillow.

| transfer syntax | image | read |
|---|---|---|
"""
SAME = """
## The same image in several encodings

One phantom, classified by the shipped model (`pneumowatch classify`):

| encoding | probability |
|---|---|
"""
IMAGES = """
## Common images

Images of more than 8 bits are scaled from their own minimum and maximum, and not clipped.

| format | image | read |
|---|---|---|
"""
REFUSED = """
## Rejected

| object or file | code |
|---|---|
"""


def page() -> str:
    return "\n".join([OPENING, *_dicom(), *_same(), *_images(), *_refused(), ""]).replace("\n\n\n", "\n\n")


def _dicom() -> Iterator[str]:
    yield DICOM.rstrip("\n")
    for case in dicom_images.cases():
        yield f"| {uid.UID(case.syntax).name} | {case.what} | {_verdict(case.off(), case.tolerance, case.what)} |"


def _same() -> Iterator[str]:
    yield SAME.rstrip("\n")
    with tempfile.TemporaryDirectory() as folder:
        found = same_image.probabilities(Path(folder))
    if len(set(found.values())) != 1:
        sys.exit(f"The same image has several probabilities: {found}")
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
        sys.exit(f"Not rejected as expected: {case.what}")


def _verdict(off: int, tolerance: int, what: str) -> str:
    if off > tolerance:
        sys.exit(f"Read incorrectly: {what} differs by {off} gray levels, {tolerance} are allowed.")
    return f"within {tolerance} gray levels" if tolerance else "exact"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
    print(f"Written to docs/evidence/{PAGE.name}.")
