"""Decode compressed frames of DICOM objects: from the bytes of one frame to its stored values.

The format is read from the codestream itself, as headers often name the wrong transfer syntax. Pillow decodes common
JPEG, as it does in image files. imagecodecs decodes the rest: it wraps libjpeg-turbo (12 bit, lossless), CharLS and
OpenJPEG (JPEG 2000, HTJ2K) in one BSD-licensed wheel. (Tried: pylibjpeg-libjpeg is GPL and refuses a 12-bit file of
pydicom's own collection; GDCM has no 12-bit JPEG.)
"""

import io
import struct
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

StoredValues = NDArray[Any]  # (height, width) or (height, width, 3), uint8, uint16 or int16

JPEG_START: Final = b"\xff\xd8"  # of a JPEG or JPEG-LS codestream
JPEG2000_START: Final = b"\xff\x4f\xff\x51"  # of a JPEG 2000 codestream
JP2_SIGNATURE: Final = b"\x00\x00\x00\x0cjP  "  # of a JP2 file, which some devices put into a frame
CODESTREAM_END: Final = b"\xff\xd9"  # of all codestreams
DCT_8: Final = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})  # start-of-frame markers that Pillow reads, at 8 bits
JPEG_LS: Final = 0xF7
SOF_MARKERS: Final = frozenset({*range(0xC0, 0xD0), JPEG_LS}) - {0xC4, 0xC8, 0xCC}  # start-of-frame markers
STANDALONE_MARKERS: Final = frozenset({0x01, 0xFF, *range(0xD0, 0xD9)})  # markers without a length


class FrameHeader(NamedTuple):
    """The content of a JPEG's start-of-frame segment."""

    marker: int
    bits: int
    height: int
    width: int
    states_colour_space: bool  # whether an application segment states the colour space


def decode_frame(frame: bytes, height: int, width: int, is_rgb: bool) -> StoredValues:
    """Decode one frame to its stored values; colour to the gray of its luminance component, where it has one.

    Args:
        height, width: in pixels, as the header states them.
        is_rgb: the header says that three components are red, green and blue.

    Raises:
        ValueError, or an exception of a decoder: the frame is damaged, cut off, or not of this size.
    """
    import imagecodecs  # imported late: few departments compress, and the import takes a tenth of a second

    frame = frame.rstrip(b"\0")  # frames are padded to an even length
    if frame.startswith(JP2_SIGNATURE):
        return _check_decoded_size(imagecodecs.jpeg2k_decode(_checked_jp2(frame, height, width)), height, width)
    if not frame.endswith(CODESTREAM_END):
        raise ValueError("the codestream is cut off")
    if frame.startswith(JPEG2000_START):
        _check_header_size(_jpeg2000_size(frame), height, width)
        return _check_decoded_size(imagecodecs.jpeg2k_decode(frame), height, width)
    if not frame.startswith(JPEG_START):
        raise ValueError("no codestream of a known kind")
    head = _read_frame_header(frame)
    _check_header_size((head.height, head.width), height, width)
    if head.marker == JPEG_LS:
        return _check_decoded_size(imagecodecs.jpegls_decode(frame), height, width)
    if head.marker in DCT_8 and head.bits == 8:
        if is_rgb and not head.states_colour_space:
            return _check_decoded_size(
                imagecodecs.jpeg8_decode(frame, colorspace="RGB", outcolorspace="RGB"), height, width
            )
        return _check_decoded_size(_decode_gray(frame), height, width)
    return _check_decoded_size(imagecodecs.jpeg8_decode(frame), height, width)


def is_deep_jpeg(data: bytes) -> bool:
    """Tell whether this is a JPEG that Pillow does not read: more than 8 bits, lossless, or JPEG-LS."""
    if not data.startswith(JPEG_START):
        return False
    try:
        head = _read_frame_header(data)
    except (IndexError, struct.error, ValueError):
        return False
    return head.bits != 8 or head.marker not in DCT_8


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Return width and height of a JPEG with a readable header, in pixels."""
    head = _read_frame_header(data)
    return head.width, head.height


def decode_rle(frame: bytes, height: int, width: int, samples: int, bits: int) -> StoredValues:
    """Decode a frame in DICOM's run-length encoding to its stored values (PS3.5 annex G)."""
    import imagecodecs

    planes = imagecodecs.dicomrle_decode(frame, dtype=f"u{bits // 8}")
    values = np.frombuffer(planes, f"u{bits // 8}").reshape(samples, height, width)
    return values[0] if samples == 1 else np.moveaxis(values, 0, -1)


def _decode_gray(frame: bytes) -> StoredValues:
    """Decode to gray with Pillow: it raises where a JPEG is cut off, whereas libjpeg alone would fill up with gray."""
    with Image.open(io.BytesIO(frame), formats=("JPEG",)) as image:
        image.draft("L", image.size)
        return np.asarray(image.convert("L"))


def _read_frame_header(frame: bytes) -> FrameHeader:
    states_colour_space, at = False, 2
    while True:
        while frame[at] == 0xFF and frame[at + 1] in STANDALONE_MARKERS:
            at += 1 if frame[at + 1] == 0xFF else 2
        marker, (length,) = frame[at + 1], struct.unpack_from(">H", frame, at + 2)
        if frame[at] != 0xFF or length < 2:
            raise ValueError("no segment where one should be")
        if marker in SOF_MARKERS:
            bits, height, width = struct.unpack_from(">BHH", frame, at + 4)
            return FrameHeader(marker, bits, height, width, states_colour_space)
        states_colour_space = states_colour_space or frame[at + 4 : at + 9] in (b"JFIF\0", b"Adobe")
        at += 2 + length


def _jpeg2000_size(codestream: bytes) -> tuple[int, int]:
    """Return height and width from the SIZ segment (ISO 15444-1, A.5.1)."""
    right, bottom, left, top = struct.unpack_from(">IIII", codestream, 8)
    return bottom - top, right - left


def _checked_jp2(file: bytes, height: int, width: int) -> bytes:
    _check_header_size(_jpeg2000_size(file[file.index(JPEG2000_START) :]), height, width)
    return file


def _check_header_size(size: tuple[int, int], height: int, width: int) -> None:
    """Check the size before a pixel is decoded: only the size in the header was compared with the limit."""
    if size != (height, width):
        raise ValueError("the codestream does not have the size in the header")


def _check_decoded_size(values: StoredValues, height: int, width: int) -> StoredValues:
    if values.shape[:2] != (height, width):
        raise ValueError("the decoded image does not have the size in the header")
    return values
