"""DICOM images with known pixels: each transfer syntax, depth, sign and photometric interpretation."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from support import dicom_files

from pneumowatch.imaging import dicom
from pneumowatch.imaging.phantom import draw_phantom

MAX_PIXELS: Final = 10_000_000
IMAGE: Final = draw_phantom(5, True, 70, 51)  # uint8; an odd number of rows and columns needs padding
DEPTHS: Final = (8, 10, 12, 16)
LOSSLESS: Final = (
    *dicom_files.NATIVE, uid.RLELossless, uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless,
    uid.JPEG2000Lossless, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL,
)  # fmt: skip
LOSSY: Final = {  # depths, and by how many of 255 gray levels a pixel may differ, with the encoding used here
    uid.JPEGBaseline8Bit: ((8,), 6),
    uid.JPEGExtended12Bit: ((8, 12), 6),
    uid.JPEGLSNearLossless: (DEPTHS, 6),
    uid.JPEG2000: (DEPTHS, 4),
    uid.HTJ2K: (DEPTHS, 6),
}


@dataclass(frozen=True)
class Case:
    """An image as a file, its true gray levels, and by how many gray levels a reader may differ from them."""

    syntax: str
    what: str
    data: bytes
    truth: NDArray[np.float64]
    tolerance: int = 0

    def off(self) -> int:
        """Return the largest difference, in gray levels, between the pixels read and the true ones."""
        gray, _ = dicom.read_dicom(self.data, MAX_PIXELS, None)
        return int(np.abs(gray - self.truth).max())


def cases() -> Iterator[Case]:
    yield from monochrome()
    yield from colour()
    yield from transformed()


def monochrome() -> Iterator[Case]:
    for syntax in LOSSLESS:
        yield from depths(syntax, DEPTHS, (False, True), 0)
    for syntax, (bits, tolerance) in LOSSY.items():
        yield from depths(syntax, bits, (False,), tolerance)


def depths(syntax: str, bits: tuple[int, ...], signs: tuple[bool, ...], tolerance: int) -> Iterator[Case]:
    for stored in bits:
        for signed in signs:
            values = stored_values(stored, signed)
            sign = "signed" if signed else "unsigned"
            for kind in ("MONOCHROME1", "MONOCHROME2"):
                truth = over_range(values)
                truth = 255 - truth if kind == "MONOCHROME1" else truth
                data = dicom_files.make_dicom(values, syntax, stored, kind)
                yield Case(syntax, f"{stored} bit {sign}, {kind}", data, truth, tolerance)


def stored_values(bits: int, signed: bool) -> NDArray[Any]:
    """Scale the phantom to the full range of so many bits."""
    values = np.round(IMAGE.astype(np.float64) * (2**bits - 1) / 255).astype(np.int64)
    values -= 2 ** (bits - 1) if signed else 0
    return values.astype(f"{'i' if signed else 'u'}{1 if bits == 8 else 2}")


def over_range(values: NDArray[Any]) -> NDArray[np.float64]:
    """Scale values to 0 (the smallest, black) to 255 (the largest, white)."""
    wide = values.astype(np.float64)
    return np.round((wide - wide.min()) / (wide.max() - wide.min()) * 255)


def colour() -> Iterator[Case]:
    rgb = np.stack([IMAGE, np.roll(IMAGE, 7, 1), 255 - IMAGE], -1)
    luminance = np.round(rgb @ np.array([0.299, 0.587, 0.114]))
    for syntax in (uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian):
        for planar in (0, 1):
            data = dicom_files.make_dicom(rgb, syntax, 8, "RGB", planar)
            yield Case(syntax, f"8 bit, RGB, planar configuration {planar}", data, luminance)
    deep = rgb.astype(np.uint16) * 257
    yield Case(uid.ExplicitVRLittleEndian, "16 bit, RGB", dicom_files.make_dicom(deep, bits=16, kind="RGB"), luminance)
    for syntax in (uid.RLELossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless):
        yield Case(syntax, "8 bit, RGB", dicom_files.make_dicom(rgb, syntax, 8, "RGB"), luminance)
    yield Case(
        uid.JPEG2000Lossless,
        "8 bit, YBR_RCT",
        dicom_files.make_dicom(rgb, uid.JPEG2000Lossless, 8, "YBR_RCT"),
        luminance,
    )
    ybr = np.stack([IMAGE, np.full_like(IMAGE, 128), np.full_like(IMAGE, 90)], -1)
    plain = IMAGE.astype(np.float64)
    yield Case(uid.ExplicitVRLittleEndian, "8 bit, YBR_FULL", dicom_files.make_dicom(ybr, kind="YBR_FULL"), plain)
    yield Case(uid.RLELossless, "8 bit, YBR_FULL", dicom_files.make_dicom(ybr, uid.RLELossless, 8, "YBR_FULL"), plain)
    jpeg = dicom_files.make_dicom(rgb, uid.JPEGBaseline8Bit, 8, "YBR_FULL_422")
    yield Case(uid.JPEGBaseline8Bit, "8 bit, YBR_FULL_422", jpeg, luminance, 12)
    yield Case(uid.ExplicitVRLittleEndian, "8 bit, PALETTE COLOR", palette(), IMAGE.astype(np.float64))


def palette() -> bytes:
    """Write an image with inverted indices, and a palette of 16-bit grays that inverts them back."""
    entries = (np.arange(255, -1, -1).astype("<u2") * 257).tobytes()
    tables = {f"{name}PaletteColorLookupTableData": entries for name in ("Red", "Green", "Blue")}
    shapes = {f"{name}PaletteColorLookupTableDescriptor": [256, 0, 16] for name in ("Red", "Green", "Blue")}
    return dicom_files.make_dicom(255 - IMAGE, kind="PALETTE COLOR", **shapes, **tables)


def transformed() -> Iterator[Case]:
    """Yield cases of modality and VOI transformation, padding and overlays in unused bits (formulas: PS3.3 C.11)."""
    values = stored_values(12, False)
    wide, little = values.astype(np.float64), uid.ExplicitVRLittleEndian

    def case(what: str, truth: NDArray[np.float64], stored: NDArray[Any] = values, **tags: Any) -> Case:
        return Case(
            little, f"12 bit, {what}", dicom_files.make_dicom(stored, bits=12, **tags), np.round(np.clip(truth, 0, 255))
        )

    window = {"WindowCenter": 2000, "WindowWidth": 1000}
    linear = ((wide - 1999.5) / 999 + 0.5) * 255
    yield case("window LINEAR", linear, **window)
    yield case("window LINEAR, the first of two", linear, WindowCenter=[2000, 10], WindowWidth=[1000, 20])
    yield case("window LINEAR, MONOCHROME1", 255 - np.clip(linear, 0, 255), kind="MONOCHROME1", **window)
    inverse = {"kind": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}
    yield case("MONOCHROME1 with presentation LUT INVERSE", 255 - np.clip(linear, 0, 255), **inverse, **window)
    exact = ((wide - 2000) / 1000 + 0.5) * 255
    yield case("window LINEAR_EXACT", exact, VOILUTFunction="LINEAR_EXACT", **window)
    sigmoid = 255 / (1 + np.exp(-4 * (wide - 2000) / 1000))
    yield case("window SIGMOID", sigmoid, VOILUTFunction="SIGMOID", **window)
    rescaled = {"RescaleSlope": "2", "RescaleIntercept": "-1000", "WindowCenter": 3000, "WindowWidth": 2000}
    yield case("rescaled, then window", ((wide * 2 - 1000 - 2999.5) / 1999 + 0.5) * 255, **rescaled)
    yield case("a window of width 0 is no window", over_range(values), WindowCenter=5, WindowWidth=0)
    square = (np.arange(4096) ** 2 / 4095**2 * 1023).astype(np.uint16)
    table = dicom_files.lookup_table(square, 10)
    yield case("VOI LUT of 10 bits", square[values] / 1023 * 255, VOILUTSequence=[table], **window)
    yield case("modality LUT", over_range(square[values]), ModalityLUTSequence=[dicom_files.lookup_table(square, 10)])
    padded = values.copy()
    padded[:9] = 4095
    truth = over_range(np.where(padded == 4095, padded[9:].min(), padded)) * 0
    inside = padded != 4095
    low, high = padded[inside].min(), padded[inside].max()
    truth[inside] = np.round((padded[inside] - float(low)) / float(high - low) * 255)
    yield case("padding value, read as black", truth, padded, PixelPaddingValue=4095)
    yield case(
        "padding, MONOCHROME1", np.where(inside, 255 - truth, 0), padded, kind="MONOCHROME1", PixelPaddingValue=4095
    )
    overlaid = values | ((np.arange(values.size).reshape(values.shape) % 2) << 12).astype(np.uint16)
    yield case("an overlay in bit 12", over_range(values), overlaid)
    yield case("stored in the upper bits", over_range(values), values << 4, HighBit=15)
