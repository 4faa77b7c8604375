"""Image files that Pillow reads but does not write, assembled here byte by byte."""

import struct
import zlib
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

ADAM7: Final = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
SHORT, LONG = 3, 4  # TIFF's field types
STRIPS, TILES = (273, 279), (324, 325)  # the tags of the offsets and lengths of a TIFF's strips or tiles


def packed(levels: NDArray[np.uint8], bits: int) -> list[bytes]:
    """Pack samples into rows of 1, 2 or 4 bits each, the first one in the highest bits."""
    spread = (levels[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    return [row.tobytes() for row in np.packbits(spread.reshape(len(levels), -1).astype(np.uint8), axis=1)]


# PNG


def png(rows: list[bytes], width: int, bits: int, colour: int, *chunks: bytes, interlaced: bool = False) -> bytes:
    head = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, interlaced)
    return _png(head, b"".join(b"\0" + row for row in rows), *chunks)


def interlaced(gray: NDArray[np.uint8]) -> bytes:
    """Write a PNG with Adam7 interlacing: seven passes, from coarse to fine."""
    parts = [gray[top::down, left::right] for top, left, down, right in ADAM7]
    rows = b"".join(b"\0" + row.tobytes() for part in parts if part.size for row in part)
    return _png(struct.pack(">IIBBBBB", gray.shape[1], gray.shape[0], 8, 0, 0, 0, 1), rows)


def bomb(side: int) -> bytes:
    """Write a PNG whose header claims this side in pixels, with next to no data (a decompression bomb)."""
    return _png(struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0), bytes(10_000))


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png(head: bytes, rows: bytes, *chunks: bytes) -> bytes:
    body = (chunk(b"IHDR", head), *chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


# TIFF


def tiff(width: int, height: int, parts: list[bytes], bits: tuple[int, ...] = (8,), **more: int) -> bytes:
    """Write a little-endian TIFF of strips, or of tiles with the side `tile`.

    Args:
        bits: one number for each sample.
        photometric, compression, orientation, planar, sample, tile: as defined in TIFF 6.0; 0 leaves a tag out.
    """
    tile = more.get("tile", 0)
    tags: dict[int, tuple[int, list[int]]] = {
        256: (LONG, [width]),
        257: (LONG, [height]),
        258: (SHORT, list(bits)),
        259: (SHORT, [more.get("compression", 1)]),
        262: (SHORT, [more.get("photometric", 1 if len(bits) < 3 else 2)]),
        274: (SHORT, [more.get("orientation", 0)]),
        277: (SHORT, [len(bits)]),
        278: (LONG, [0 if tile else height]),
        284: (SHORT, [more.get("planar", 0)]),
        322: (LONG, [tile]),
        323: (LONG, [tile]),
        339: (SHORT, [more.get("sample", 0)] * len(bits)),
    }
    used = {tag: given for tag, given in tags.items() if any(given[1])}
    begins, lengths = TILES if tile else STRIPS
    used[begins], used[lengths] = (LONG, [0] * len(parts)), (LONG, [len(part) for part in parts])
    start = len(_tiff_head(used))
    used[begins] = (LONG, [start + sum(map(len, parts[:number])) for number in range(len(parts))])
    return _tiff_head(used) + b"".join(parts)


def _tiff_head(tags: dict[int, tuple[int, list[int]]]) -> bytes:
    entries, behind = b"", b""
    where = 8 + 2 + 12 * len(tags) + 4
    for tag, (kind, numbers) in sorted(tags.items()):
        values = struct.pack(f"<{len(numbers)}{'H' if kind == SHORT else 'I'}", *numbers)
        if len(values) > 4:
            place, behind = struct.pack("<I", where + len(behind)), behind + values
        else:
            place = values.ljust(4, b"\0")
        entries += struct.pack("<HHI", tag, kind, len(numbers)) + place
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + behind


def tiles(gray: NDArray[np.uint8], side: int) -> list[bytes]:
    high, wide = (-(-length // side) * side for length in gray.shape)
    padded = np.zeros((high, wide), np.uint8)
    padded[: gray.shape[0], : gray.shape[1]] = gray
    return [
        padded[top : top + side, left : left + side].tobytes()
        for top in range(0, high, side)
        for left in range(0, wide, side)
    ]


# BMP


def bmp(width: int, height: int, bits: int, body: bytes, compression: int = 0, masks: tuple[int, ...] = ()) -> bytes:
    """Write a BMP, with a gray palette up to 8 bits. A negative `height` stores the rows from top to bottom."""
    colours = 2**bits if bits <= 8 else 0
    palette = b"".join(bytes([level * 255 // (colours - 1)] * 3 + [0]) for level in range(colours))
    extra = struct.pack(f"<{len(masks)}I", *masks) + palette
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(body), 0, 0, colours, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(extra) + len(body), 0, 0, 54 + len(extra)) + head + extra + body


def run_lengths(gray: NDArray[Any]) -> bytes:
    """Encode rows in BMP's 8-bit run-length encoding, each run one pixel long."""
    return b"".join(b"".join(bytes([1, level]) for level in row) + b"\0\0" for row in gray[::-1].tolist()) + b"\0\1"
