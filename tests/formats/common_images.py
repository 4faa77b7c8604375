"""Common image files with known pixels, and files that are rejected."""

import base64
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from formats import by_hand
from formats.dicom_images import IMAGE, over_range
from formats.refused import Refused
from pneumowatch.imaging import common_formats
from pneumowatch.imaging.phantom import draw_phantom

WHOLE: Final = 4096  # a side larger than that of the images, so that nothing is reduced
DEEP: Final = IMAGE.astype(np.uint16) * 257
SPREAD: Final = over_range(IMAGE)  # what an image of more than 8 bits is scaled to
TWELVE: Final = DEEP >> 4
WIDTH, HEIGHT = IMAGE.shape[1], IMAGE.shape[0]
# phantom(5, True, 48, 36) by `cjpeg -arithmetic -quality 90`: no Python package writes arithmetic coding
ARITHMETIC: Final = """
/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgMCAgMDAwMEAwMEBQgFBQQEBQoHBwYIDAoMDAsKCwsNDhIQDQ4RDgsLEBYQERMUFRUVDA8XGBYU
GBIUFRT/yQALCAAkADABAREA/8wABgAQEAX/2gAIAQEAAD8A/wC4+8zFvDM7xE5Ia50LvG6XbMxi5iOOJIrCo2jYt+pFfxcke843CpI2VSGUCX24
di5rR2sj/wCr8+NM9Ocu5Tmd3b3I4MCHVDUHzlGnHKbO6sV2e6w7EQWuJz17wlWBoR8zgwn/ALbt1kullkBYO9M+ream7IU7y3h26a6zpY6nMgPu
u0OMfkiQZlcNdAmkuqO2A3NWsGvgWHBWOprHOuhSDdyFGU2rEpjktkvuoGgcV9FNQf6JQVNgUu1wMxcnIL5RZuYtQjIFjHAktHsthkeL8XAwLisV
kbeqaYvMBVkQXqicJX9njYpqf6KoOiQuLVtHDXFYuFxN3VsxSaf2I2gGTNlR2tB3GUuVSv6xEgjiZmtalInS4heDsTQqEfJlLUN4hEMDtIkYg48a
NyEdn+eubHZuRB3e7B4aHWwhqDf5pKZf8/S/MVIxIBit09phNjTQNQ0YLmoK5L19R22eXWi9w4jzO1h1j+oI7rHlQx4yDFdFsqjFvjmJVaP3vDlO
CoZGAAPkPhTsh520VyedL94mtXediw1JofiuYvgFr+ZiolQUjilnYfUBt0VlynDMyyGlh+SSwjE/5fq43/1uPALZd3xo36GjR846tbQSEv2lTO6n
eAwE1vnHpfnHOIBSH9wL+JgS1r7WdYyP7Q09BpEJT84hvls2v3Bseuyu5tsn2Vqf2gfGgNPfsyer7b0qPJyJahTrUX/MV75Sf6/rUBsSljGLgBSb
nppzWjvPCa4y4nPyvAY0GHo5agJvgc0dljsQ49xKdXdhxJ6EaKzaejcRxpAlpTbLp2Z8wflcVO8M7ULh6rjkMovALgyubdvUHO0ZSRPwINq7cHyt
jWL+Q/lqFnlIcZeCYeeJ0goo3lklVhmDvsfg5Ae5UAw8R21l2M6edfg2kHyHfR5NWOQKHxq9X9aQrJ4bN5GihQnnDJNlh/byAi81RDANYP8AAV3/
AGtUKO7AT/zufygJJrblwv4VuC/UNkiMnHT/2Q=="""


@dataclass(frozen=True)
class Case:
    """An image as a file, its true gray levels, and by how many gray levels a reader may differ from them."""

    kind: str
    what: str
    data: bytes
    truth: NDArray[Any]
    tolerance: int = 0

    def off(self) -> int:
        """Return the largest difference, in gray levels, between the pixels read and the true ones."""
        gray = np.asarray(common_formats.read_common_format(self.data, WHOLE, WHOLE * WHOLE)).astype(int)
        return int(np.abs(gray - self.truth).max()) if gray.shape == self.truth.shape else 255


def cases() -> Iterator[Case]:
    yield from portable_network_graphics()
    yield from tagged()
    yield from joint_photographic()
    yield from others()


def portable_network_graphics() -> Iterator[Case]:
    gray = Image.fromarray(IMAGE)
    two = Image.fromarray(((IMAGE > 90) * 255).astype(np.uint8))
    half = np.full_like(IMAGE, 255)
    half[:20] = 0
    behind = np.where(half == 0, 0, IMAGE)
    rgb = np.stack([IMAGE, np.roll(IMAGE, 7, 1), 255 - IMAGE], -1)
    yield Case("PNG", "8 bit", saved(gray, "PNG"), IMAGE)
    yield Case("PNG", "8 bit, interlaced", by_hand.interlaced(IMAGE), IMAGE)
    yield Case("PNG", "16 bit", saved(Image.fromarray(DEEP), "PNG"), SPREAD)
    quarter = Image.fromarray((DEEP // 4 + 1000).astype(np.uint16))
    yield Case("PNG", "16 bit, of which a quarter is used", saved(quarter, "PNG"), SPREAD)
    yield Case("PNG", "1 bit", saved(two.convert("1"), "PNG"), np.asarray(two))
    for bits in (2, 4):
        levels = IMAGE >> (8 - bits)
        rows = by_hand.packed(levels, bits)
        yield Case("PNG", f"{bits} bit", by_hand.png(rows, WIDTH, bits, 0), levels * (255 // (2**bits - 1)))
    yield Case("PNG", "palette", saved(Image.fromarray(IMAGE // 16 * 16).convert("P"), "PNG"), IMAGE // 16 * 16)
    yield Case("PNG", "colour", saved(Image.fromarray(rgb), "PNG"), np.asarray(Image.fromarray(rgb).convert("L")))
    alpha = Image.merge("LA", (gray, Image.fromarray(half)))
    yield Case("PNG", "gray with alpha: transparent pixels are black", saved(alpha, "PNG"), behind)
    whole = Image.merge("RGBA", (gray, gray, gray, Image.fromarray(half)))
    yield Case("PNG", "colour with alpha", saved(whole, "PNG"), behind)
    yield Case("PNG", "16 bit, colour", imagecodecs.png_encode(colour(DEEP)), SPREAD)
    yield Case(
        "PNG", "16 bit, colour, of which 12 are used", imagecodecs.png_encode(colour(TWELVE)), over_range(TWELVE)
    )
    veiled = np.dstack([DEEP, half.astype(np.uint16) * 257])
    yield Case("PNG", "16 bit, gray with alpha", imagecodecs.png_encode(veiled), over_range(behind))
    frames = {"save_all": True, "append_images": [Image.fromarray(255 - IMAGE)]}
    yield Case("PNG", "animated: the first picture", saved(gray, "PNG", **frames), IMAGE)


def tagged() -> Iterator[Case]:
    gray, deep = Image.fromarray(IMAGE), Image.fromarray(DEEP)
    two = Image.fromarray(((IMAGE > 90) * 255).astype(np.uint8))
    yield Case("TIFF", "8 bit", saved(gray, "TIFF"), IMAGE)
    yield Case("TIFF", "16 bit", saved(deep, "TIFF"), SPREAD)
    for name, compression in {"LZW": "tiff_lzw", "deflate": "tiff_adobe_deflate", "packed bits": "packbits"}.items():
        yield Case("TIFF", f"8 bit, {name}", saved(gray, "TIFF", compression=compression), IMAGE)
        yield Case("TIFF", f"16 bit, {name}", saved(deep, "TIFF", compression=compression), SPREAD)
    fax = saved(two.convert("1"), "TIFF", compression="group4")
    yield Case("TIFF", "1 bit, CCITT group 4", fax, np.asarray(two))
    yield Case("TIFF", "JPEG inside", saved(gray, "TIFF", compression="jpeg", quality=98), IMAGE, 6)
    yield Case("TIFF", "white is zero", saved(gray, "TIFF", tiffinfo={262: 0}), IMAGE)
    yield Case("TIFF", "16 bit, white is zero", saved(Image.fromarray(~DEEP), "TIFF", tiffinfo={262: 0}), SPREAD)
    yield Case("TIFF", "floating point", saved(Image.fromarray(IMAGE / np.float32(255)), "TIFF"), SPREAD)
    pages = {"save_all": True, "append_images": [Image.fromarray(255 - IMAGE)]}
    yield Case("TIFF", "several pages: the first", saved(gray, "TIFF", **pages), IMAGE)
    yield Case("TIFF", "BigTIFF", saved(gray, "TIFF", big_tiff=True), IMAGE)
    yield from tagged_by_hand()
    yield Case("TIFF", "CMYK", saved(Image.merge("CMYK", [Image.new("L", gray.size)] * 3 + [black()]), "TIFF"), IMAGE)


def tagged_by_hand() -> Iterator[Case]:
    def tiff(values: NDArray[Any], bits: int, **tags: int) -> bytes:
        samples = 1 if values.ndim == 2 else values.shape[-1]
        planes = list(np.moveaxis(values, -1, 0)) if tags.get("planar") == 2 else [values]
        return by_hand.tiff(WIDTH, HEIGHT, [plane.tobytes() for plane in planes], (bits,) * samples, **tags)

    yield Case(
        "TIFF", "4 bit", by_hand.tiff(WIDTH, HEIGHT, [b"".join(by_hand.packed(IMAGE >> 4, 4))], (4,)), IMAGE // 16 * 17
    )
    yield Case("TIFF", "16 bit, signed", tiff((DEEP.astype(np.int32) - 32768).astype("<i2"), 16, sample=2), SPREAD)
    yield Case("TIFF", "32 bit", tiff(DEEP.astype("<u4") * 65537, 32), SPREAD)
    yield Case("TIFF", "32 bit, signed", tiff(DEEP.astype("<i4") - 40_000, 32, sample=2), SPREAD)
    yield Case("TIFF", "colour, one plane after another", tiff(colour(IMAGE), 8, planar=2), IMAGE)
    yield Case("TIFF", "16 bit, colour", tiff(colour(DEEP), 16), SPREAD)
    yield Case("TIFF", "16 bit, colour, one plane after another", tiff(colour(DEEP), 16, planar=2), SPREAD)
    yield Case("TIFF", "16 bit, colour, of which 12 are used", tiff(colour(TWELVE), 16), over_range(TWELVE))
    tiles = by_hand.tiles(IMAGE, 32)
    yield Case("TIFF", "in tiles", by_hand.tiff(WIDTH, HEIGHT, tiles, tile=32), IMAGE)
    deflated = [zlib.compress(tile) for tile in tiles]
    yield Case("TIFF", "in tiles, deflate", by_hand.tiff(WIDTH, HEIGHT, deflated, tile=32, compression=8), IMAGE)


def joint_photographic() -> Iterator[Case]:
    gray = Image.fromarray(IMAGE)
    yield Case("JPEG", "gray", saved(gray, "JPEG", quality=98), IMAGE, 6)
    yield Case("JPEG", "progressive", saved(gray, "JPEG", quality=98, progressive=True), IMAGE, 6)
    small = draw_phantom(5, True, 48, 36)
    yield Case("JPEG", "arithmetic coding", base64.b64decode(ARITHMETIC), small, 20)
    yield Case("JPEG", "colour", saved(gray.convert("RGB"), "JPEG", quality=98), IMAGE, 6)
    ink = Image.merge("CMYK", [Image.new("L", gray.size)] * 3 + [black()])
    yield Case("JPEG", "CMYK, inverted as Adobe does", saved(ink, "JPEG", quality=98), IMAGE, 8)
    turned = Image.fromarray(np.rot90(IMAGE))
    data = saved(turned, "JPEG", quality=98, exif=orientation(6))
    yield Case("JPEG", "EXIF orientation", data, IMAGE, 6)
    yield Case(
        "JPEG", "12 bit", imagecodecs.jpeg8_encode(IMAGE.astype(np.uint16) * 16, level=98, bitspersample=12), SPREAD, 6
    )
    yield Case("JPEG", "lossless", imagecodecs.jpeg8_encode(DEEP, lossless=True, bitspersample=16), SPREAD)
    yield Case("JPEG-LS", "8 bit", imagecodecs.jpegls_encode(IMAGE), IMAGE)
    two = saved(gray, "MPO", save_all=True, append_images=[Image.fromarray(255 - IMAGE)], quality=98)
    yield Case("JPEG", "several pictures (MPO): the first", two, IMAGE, 6)
    for name, form in {"codestream": "j2k", "JP2 file": "jp2"}.items():
        yield Case(
            "JPEG 2000", f"8 bit, {name}", imagecodecs.jpeg2k_encode(IMAGE, codecformat=form, reversible=True), IMAGE
        )
        yield Case(
            "JPEG 2000", f"16 bit, {name}", imagecodecs.jpeg2k_encode(DEEP, codecformat=form, reversible=True), SPREAD
        )
    deep = imagecodecs.jpeg2k_encode(colour(TWELVE), codecformat="jp2", reversible=True)
    yield Case("JPEG 2000", "16 bit, colour, of which 12 are used", deep, over_range(TWELVE))


def others() -> Iterator[Case]:
    gray = Image.fromarray(IMAGE)
    yield Case("BMP", "8 bit", saved(gray, "BMP"), IMAGE)
    yield Case("BMP", "24 bit", saved(gray.convert("RGB"), "BMP"), IMAGE)
    two = Image.fromarray(((IMAGE > 90) * 255).astype(np.uint8))
    yield Case("BMP", "1 bit", saved(two.convert("1"), "BMP"), np.asarray(two))
    four = b"".join(row.ljust(-(-len(row) // 4) * 4, b"\0") for row in by_hand.packed(IMAGE[::-1] >> 4, 4))
    yield Case("BMP", "4 bit", by_hand.bmp(WIDTH, HEIGHT, 4, four), IMAGE // 16 * 17)
    yield Case("BMP", "8 bit, run lengths", by_hand.bmp(WIDTH, HEIGHT, 8, by_hand.run_lengths(IMAGE), 1), IMAGE)
    rows = np.pad(IMAGE, ((0, 0), (0, -WIDTH % 4))).tobytes()
    yield Case("BMP", "8 bit, from top to bottom", by_hand.bmp(WIDTH, -HEIGHT, 8, rows), IMAGE)
    parts = IMAGE[::-1].astype("<u2")
    short = (parts >> 3 << 11 | parts >> 2 << 5 | parts >> 3).tobytes()
    data = by_hand.bmp(WIDTH, HEIGHT, 16, short, 3, (0xF800, 0x07E0, 0x001F))
    yield Case("BMP", "16 bit (5, 6 and 5)", data, IMAGE.astype(int) >> 2 << 2, 6)
    yield Case("GIF", "palette", saved(gray, "GIF"), IMAGE)
    frames = {"save_all": True, "append_images": [Image.fromarray(255 - IMAGE)]}
    yield Case("GIF", "animated: the first picture", saved(gray, "GIF", **frames), IMAGE)


def refused() -> Iterator[Refused]:
    gray = Image.fromarray(IMAGE)
    yield Refused("an empty file", b"", "empty")
    yield Refused("a text", b"not an image " * 50, "unsupported")
    yield Refused("a PDF", b"%PDF-1.7\n" + b"x" * 500, "unsupported")
    yield Refused("a WebP picture", saved(gray, "WEBP"), "unsupported")
    for kind in ("PNG", "TIFF", "JPEG", "GIF", "BMP"):
        data = saved(gray, kind)
        yield Refused(f"half of a {kind}", data[: len(data) // 2], "unreadable")
    half = imagecodecs.jpeg2k_encode(IMAGE, codecformat="j2k", reversible=True)
    yield Refused("half of a JPEG 2000", half[: len(half) // 2], "unreadable")
    yield Refused("a picture of one gray level", saved(Image.new("L", (300, 200), 77), "PNG"), "no_pixels")
    nothing = Image.merge("LA", (gray, Image.new("L", gray.size)))
    yield Refused("a fully transparent picture", saved(nothing, "PNG"), "no_pixels")
    yield Refused("a thumbnail, below 32 pixels a side", saved(gray.resize((40, 31)), "JPEG"), "no_pixels")
    float64 = by_hand.tiff(WIDTH, HEIGHT, [IMAGE.astype("<f8").tobytes()], (64,), sample=3)
    yield Refused("a TIFF of 64-bit floating point", float64, "unreadable")
    yield Refused("a PNG of 60,000 x 60,000 pixels", by_hand.bomb(60_000), "too_large")


def colour(levels: NDArray[Any]) -> NDArray[Any]:
    """Return the same gray levels as red, green and blue."""
    return np.dstack([levels] * 3)


def black() -> Image.Image:
    """Return the black channel for CMYK: no ink where the image is white."""
    return Image.fromarray(255 - IMAGE)


def orientation(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
