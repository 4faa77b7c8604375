"""The image reader, on files as scanners, converters and broken copies leave them in a folder."""

import io
import resource
import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from formats import by_hand
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from pneumowatch.errors import ImageRejected
from pneumowatch.imaging.phantom import draw_phantom
from pneumowatch.imaging.reader import read_pixels

SIDE = 48
REASONS = {"empty", "unsupported", "unreadable", "too_large", "no_pixels"}

GRAY = draw_phantom(3, True, 320, 240)
DEEP = GRAY.astype(np.uint16) * 257  # the same image at 16 bit, over the whole range
IMAGE = Image.fromarray(GRAY)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def reason_of(data: bytes, **options: Any) -> str:
    with pytest.raises(ImageRejected) as caught:
        read_pixels(data, SIDE, **options)
    assert caught.value.sentence.endswith(".")
    return caught.value.reason


def pixels_or_reason(data: bytes) -> NDArray[np.uint8] | str:
    try:
        return read_pixels(data, SIDE, max_pixels=4_000_000)
    except ImageRejected as fault:
        return fault.reason


def close_to(expected: NDArray[np.uint8], pixels: NDArray[np.uint8]) -> bool:
    """Tell whether it is a lossy copy of the same image, not its negative, its mirror image or another one."""
    return float(np.abs(expected.astype(float) - pixels).mean()) < 6


PNG = encode(IMAGE, "PNG")
JPEG = encode(IMAGE, "JPEG", quality=90)
PLAIN = read_pixels(PNG, SIDE)


def palette_with_transparency() -> bytes:
    return encode(IMAGE.convert("P"), "PNG", transparency=0)


def two_pages(kind: str) -> bytes:
    return encode(IMAGE, kind, save_all=True, append_images=[Image.fromarray(255 - GRAY)])


LOSSLESS = {
    "png": PNG,
    "bmp": encode(IMAGE, "BMP"),
    "gif": encode(IMAGE, "GIF"),
    "animated gif": two_pages("GIF"),
    "tiff": encode(IMAGE, "TIFF"),
    "tiff, lzw": encode(IMAGE, "TIFF", compression="tiff_lzw"),
    "tiff, deflate": encode(IMAGE, "TIFF", compression="tiff_adobe_deflate"),
    "tiff, two pages": two_pages("TIFF"),
    "tiff, white is zero": encode(IMAGE, "TIFF", tiffinfo={262: 0}),
    "animated png": two_pages("PNG"),
    "png, rgb": encode(IMAGE.convert("RGB"), "PNG"),
    "png, alpha": encode(IMAGE.convert("LA"), "PNG"),
    "png, rgba": encode(IMAGE.convert("RGBA"), "PNG"),
    "png, palette": encode(IMAGE.convert("P"), "PNG"),
    "png, palette with a transparent entry": palette_with_transparency(),
    "bmp, rgb": encode(IMAGE.convert("RGB"), "BMP"),
}
LOSSY = {
    "jpeg": JPEG,
    "jpeg, rgb": encode(IMAGE.convert("RGB"), "JPEG", quality=90),
    "jpeg, cmyk": encode(IMAGE.convert("CMYK"), "JPEG", quality=90),
    "jpeg, progressive": encode(IMAGE, "JPEG", quality=90, progressive=True),
    "jpeg, rgb progressive": encode(IMAGE.convert("RGB"), "JPEG", quality=90, progressive=True),
    "jpeg in tiff": encode(IMAGE, "TIFF", compression="jpeg"),
}


@pytest.mark.parametrize("data", LOSSLESS.values(), ids=LOSSLESS.keys())
def test_the_same_image_in_any_lossless_kind_gives_equal_pixels(data: bytes) -> None:
    pixels = read_pixels(data, SIDE)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, PLAIN)


@pytest.mark.parametrize("data", LOSSY.values(), ids=LOSSY.keys())
def test_lossy_kinds_show_the_same_image(data: bytes) -> None:
    assert close_to(PLAIN, read_pixels(data, SIDE))


@pytest.mark.parametrize("data", [JPEG, LOSSY["jpeg, cmyk"], PNG, encode(Image.fromarray(DEEP), "PNG")])
def test_pixels_are_exactly_equal_on_repeat(data: bytes) -> None:
    np.testing.assert_array_equal(read_pixels(data, SIDE), read_pixels(data, SIDE))


@pytest.mark.parametrize("side", [2, 7, 150, 224, 512])
def test_any_side(side: int) -> None:
    assert read_pixels(JPEG, side).shape == (side, side)


def stretched(kind: str = "PNG", **options: Any) -> NDArray[np.uint8]:
    """Return GRAY stretched from its minimum and maximum to 0 and 255, as images of more than 8 bits are."""
    low, high = int(GRAY.min()), int(GRAY.max())
    whole = np.round((GRAY.astype(float) - low) * 255 / (high - low)).astype(np.uint8)
    return read_pixels(encode(Image.fromarray(whole), kind, **options), SIDE)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("bits", [12, 16])
def test_more_than_8_bits_are_scaled_from_the_images_own_range(kind: str, bits: int) -> None:
    values = (DEEP >> (16 - bits)).astype(np.uint16)
    pixels = read_pixels(encode(Image.fromarray(values), kind), SIDE)
    assert np.abs(pixels.astype(int) - stretched()).max() <= 1


def test_big_endian_and_32_bit_tiffs() -> None:
    big = Image.frombytes("I;16B", IMAGE.size, DEEP.astype(">u2").tobytes())
    for image in (big, Image.fromarray(DEEP.astype(np.int32) - 40_000), Image.fromarray(DEEP.astype(np.float32) / 9)):
        assert np.abs(read_pixels(encode(image, "TIFF"), SIDE).astype(int) - stretched()).max() <= 1


def test_16_bit_tiff_whose_white_is_zero_is_no_negative() -> None:
    data = encode(Image.fromarray(DEEP.max() - DEEP), "TIFF", tiffinfo={262: 0})
    assert np.abs(read_pixels(data, SIDE).astype(int) - stretched()).max() <= 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize(("orientation", "turn"), [(3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_90)])
def test_exif_orientation_is_obeyed(kind: str, orientation: int, turn: Image.Transpose) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert close_to(PLAIN, read_pixels(encode(IMAGE.transpose(turn), kind, exif=exif), SIDE))


@pytest.mark.parametrize("value", [0, 128, 255])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_what_is_one_gray_all_over_is_no_picture(kind: str, value: int) -> None:
    assert reason_of(encode(Image.new("L", (90, 70), value), kind)) == "no_pixels"


def test_a_constant_16_bit_image_is_no_division_by_zero() -> None:
    assert reason_of(encode(Image.fromarray(np.full((70, 90), 777, np.uint16)), "PNG")) == "no_pixels"


@pytest.mark.parametrize("height", [40, 4000])
def test_deep_images_are_the_same_whatever_is_scaled_at_a_time(height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = encode(Image.fromarray(np.linspace(0, 65535, height * 50).reshape(height, 50).astype(np.uint16)), "PNG")
    whole = read_pixels(deep, SIDE)
    monkeypatch.setattr("pneumowatch.imaging.common_formats.BAND_PIXELS", 50 * 7)
    np.testing.assert_array_equal(read_pixels(deep, SIDE), whole)


def test_a_large_deep_image_takes_little_more_memory_than_its_values() -> None:
    """In floating point, all at once, it would be twelve times as large."""
    deep = encode(Image.fromarray(np.arange(4000 * 3000, dtype=np.uint16).reshape(3000, 4000)), "TIFF")
    read_pixels(deep, SIDE)
    tracemalloc.start()
    read_pixels(deep, SIDE)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4000 * 3000 * 6


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_floats_that_are_no_numbers_are_refused(bad: float) -> None:
    values = DEEP.astype(np.float32)
    values[5, 5] = bad
    assert reason_of(encode(Image.fromarray(values), "TIFF")) == "unreadable"


@pytest.mark.parametrize("size", [(32, 32), (32, 4000), (4000, 32)])
def test_odd_shapes_are_squashed(size: tuple[int, int]) -> None:
    pixels = read_pixels(encode(IMAGE.resize(size), "PNG"), SIDE)
    assert pixels.shape == (SIDE, SIDE)


@pytest.mark.parametrize("size", [(1, 1), (31, 32), (4000, 31)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "JPEG2000"])
def test_thumbnails_are_no_images(kind: str, size: tuple[int, int]) -> None:
    assert reason_of(encode(IMAGE.resize(size), kind)) == "no_pixels"


@pytest.mark.parametrize("orientation", range(2, 9))
def test_orientation_of_images_that_pillow_would_clip(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = by_hand.tiff(*IMAGE.size, [np.dstack([DEEP] * 3).tobytes()], (16, 16, 16), orientation=orientation)
    assert np.abs(read_pixels(data, SIDE).astype(int) - stretched("TIFF", exif=exif)).max() <= 1


# what is no image


def test_an_empty_file() -> None:
    assert reason_of(b"") == "empty"


@pytest.mark.parametrize(
    "data",
    [
        b"This is a letter, not an image.\n" * 50,
        b"\0" * 4096,
        b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        b"%PDF-1.7\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        encode(IMAGE, "WEBP"),
        encode(IMAGE, "PPM"),
    ],
    ids=["text", "zeros", "svg", "pdf", "postscript", "webp", "ppm"],
)
def test_kinds_that_are_not_read(data: bytes) -> None:
    assert reason_of(data) == "unsupported"


def test_dicom_is_told_by_its_magic() -> None:
    with pytest.raises(ImageRejected, match="DICOM"):
        read_pixels(b"\0" * 128 + b"DICM", SIDE)


TRUNCATED = {**LOSSY, **LOSSLESS, "png, 16 bit": encode(Image.fromarray(DEEP), "PNG")}


@pytest.mark.parametrize("data", TRUNCATED.values(), ids=TRUNCATED.keys())
def test_a_cut_image_is_refused_or_was_whole_already(data: bytes) -> None:
    """Never half an image: what is missing may only be what comes after the pixels (a trailer, later pages)."""
    whole = read_pixels(data, SIDE)
    cuts = {len(data) * step // 40 for step in range(1, 40)} | {1, 2, 8, 20, 60, 150}
    cuts |= {len(data) - short for short in (1, 2, 4, 8, 12, 16, 20, 24, 30, 40, 60, 100)}
    for cut in sorted(cuts):
        found = pixels_or_reason(data[:cut])
        if isinstance(found, str):
            assert found in ("unreadable", "unsupported"), cut
        else:
            np.testing.assert_array_equal(found, whole, err_msg=f"cut at {cut} of {len(data)}")


@pytest.mark.parametrize("kind", ["jpeg", "jpeg, progressive", "png", "bmp"])
def test_half_an_image_is_unreadable(kind: str) -> None:
    data = TRUNCATED[kind]
    assert reason_of(data[: len(data) // 2]) == "unreadable"


def test_a_png_whose_end_was_never_written_is_no_image_that_is_half_black() -> None:
    """Copies that reserve their space first look whole by their size; what is not written yet reads as zeros."""
    for data in (PNG, LOSSLESS["png, alpha"], TRUNCATED["png, 16 bit"], encode(IMAGE, "PNG", compress_level=0)):
        for written in (len(data) // 3, len(data) * 2 // 3, len(data) - 30):
            assert reason_of(data[:written].ljust(len(data), b"\0")) == "unreadable"


# headers that promise too much


def png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def bmp_header(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *[0] * 6)


def jpeg_header(width: int, height: int) -> bytes:
    start = JPEG.index(b"\xff\xc0")
    return JPEG[: start + 5] + struct.pack(">HH", height, width) + JPEG[start + 9 :]


@pytest.mark.parametrize(
    "data",
    [
        png_header(2**31 - 1, 2**31 - 1),
        png_header(100_000, 100_000),
        bmp_header(60_000, 60_000),
        jpeg_header(65_000, 65_000),
    ],
    ids=["png, widest", "png", "bmp", "jpeg"],
)
def test_a_bomb_is_refused_before_memory_is_taken_for_it(data: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert reason_of(data) == "too_large"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB


def test_the_bound_on_pixels_is_exact() -> None:
    width, height = IMAGE.size
    np.testing.assert_array_equal(read_pixels(PNG, SIDE, max_pixels=width * height), PLAIN)
    assert reason_of(PNG, max_pixels=width * height - 1) == "too_large"


@pytest.mark.parametrize("data", [png_header(0, 5), png_header(0, 0), bmp_header(0, 9), jpeg_header(0, 9)])
def test_no_width_no_image(data: bytes) -> None:
    assert reason_of(data) in REASONS


# whatever comes


def only_image_rejected(data: bytes) -> None:
    found = pixels_or_reason(data)
    if isinstance(found, str):
        assert found in REASONS
    else:
        assert (found.shape, found.dtype) == ((SIDE, SIDE), np.uint8)


@given(st.binary(max_size=400))
def test_random_bytes_never_raise_anything_else(data: bytes) -> None:
    only_image_rejected(data)


MAGICS = [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF89a", b"II*\0", b"MM\0*", b"II+\0", b"II\xbc\0"]


@given(st.sampled_from(MAGICS), st.binary(max_size=400))
def test_random_bytes_behind_a_magic_never_raise_anything_else(magic: bytes, data: bytes) -> None:
    only_image_rejected(magic + data)


SMALL = Image.fromarray(draw_phantom(1, False, 80, 60))
SEEDS = [
    encode(SMALL, "JPEG"),
    encode(SMALL.convert("CMYK"), "JPEG", progressive=True),
    encode(SMALL, "PNG"),
    encode(SMALL.convert("P"), "PNG"),
    encode(SMALL, "GIF", save_all=True, append_images=[SMALL]),
    encode(SMALL, "BMP"),
    encode(SMALL, "TIFF"),
    encode(SMALL, "TIFF", compression="tiff_lzw"),
    encode(Image.fromarray(np.asarray(SMALL, np.uint16) * 7), "TIFF"),
]


@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=4)), min_size=1, max_size=6),
    st.booleans(),
)
@settings(max_examples=250, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_mutated_images_never_raise_anything_else(
    seed: bytes, changes: list[tuple[float, bytes]], in_header: bool
) -> None:
    data = bytearray(seed)
    for place, patch in changes:
        start = int(place * (min(len(data), 200) if in_header else len(data)))
        data[start : start + max(len(patch), 1)] = patch  # an empty patch takes a byte away
    only_image_rejected(bytes(data))
