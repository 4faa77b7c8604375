"""DICOM objects that are not read, and the code each is rejected with."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from support import dicom_files

from formats.dicom_images import IMAGE

STORAGE: Final = "1.2.840.10008.5.1.4.1.1."
MAX_PIXELS: Final = 1_000_000  # the limit with which these files are read


@dataclass(frozen=True)
class Refused:
    what: str
    data: bytes
    reason: str


def cases() -> Iterator[Refused]:
    yield from without_pixels()
    yield from other_pictures()
    yield from other_views()
    yield from unreadable()


def without_pixels() -> Iterator[Refused]:
    objects = {
        "a structured report": "88.11",
        "an encapsulated PDF": "104.1",
        "a presentation state": "11.1",
        "an RT plan": "481.5",
        "a waveform": "9.1.1",
    }
    for what, storage in objects.items():
        yield Refused(
            what,
            dicom_files.dataset_bytes(dicom_files.make_header(SOPClassUID=STORAGE + storage, Modality="SR")),
            "no_pixels",
        )
    directory = dicom_files.make_header(SOPClassUID=uid.MediaStorageDirectoryStorage, Modality=None)
    directory.DirectoryRecordSequence = Sequence([])
    yield Refused("a DICOMDIR", dicom_files.dataset_bytes(directory), "no_pixels")
    yield Refused(
        "an image's header without its pixels", dicom_files.dataset_bytes(dicom_files.make_header()), "no_pixels"
    )


def other_pictures() -> Iterator[Refused]:
    others = {
        "CT": "2", "MR": "4", "US": "6.1", "NM": "20", "PT": "128", "MG": "1.2", "XA": "12.1", "RTIMAGE": "481.1",
    }  # fmt: skip
    for modality, storage in others.items():
        data = dicom_files.make_dicom(IMAGE, Modality=modality, SOPClassUID=STORAGE + storage)
        yield Refused(f"modality {modality}", data, "not_chest_xray")
    yield Refused("modality CT, kept as secondary capture", secondary(Modality="CT"), "not_chest_xray")
    for part in ("HAND", "ABDOMEN", "KNEE", "SKULL"):
        yield Refused(f"body part {part}", dicom_files.make_dicom(IMAGE, BodyPartExamined=part), "not_chest_xray")
    region = Dataset()
    region.CodeValue, region.CodingSchemeDesignator, region.CodeMeaning = "56459004", "SCT", "Foot"
    tags = {"BodyPartExamined": None, "AnatomicRegionSequence": Sequence([region])}
    yield Refused("anatomic region Foot", dicom_files.make_dicom(IMAGE, **tags), "not_chest_xray")
    ours = secondary(Modality="OT", Manufacturer="pneumowatch")
    yield Refused("an object that pneumowatch itself made for a PACS", ours, "not_chest_xray")
    yield Refused("two frames", frames(2), "unsupported")
    yield Refused("32 bits", dicom_files.make_dicom(IMAGE.astype(np.uint32)), "unsupported")
    yield Refused("pixels in floating point", floats(), "unsupported")


def secondary(**tags: Any) -> bytes:
    return dicom_files.make_dicom(IMAGE, SOPClassUID=STORAGE + "7", **tags)


def frames(count: int) -> bytes:
    tall = np.concatenate([IMAGE] * count)
    return dicom_files.make_dicom(tall, NumberOfFrames=count).replace(
        struct.pack("<HH2sHH", 0x28, 0x10, b"US", 2, len(tall)),
        struct.pack("<HH2sHH", 0x28, 0x10, b"US", 2, len(IMAGE)),
    )


def floats() -> bytes:
    dataset = dicom_files.make_header(Rows=2, Columns=2, SamplesPerPixel=1, BitsAllocated=32)
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.FloatPixelData = np.zeros(4, "<f4").tobytes()
    return dicom_files.dataset_bytes(dataset)


def other_views() -> Iterator[Refused]:
    for view in ("LL", "RL", "LLO"):
        yield Refused(f"view position {view}", dicom_files.make_dicom(IMAGE, ViewPosition=view), "not_frontal")
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "399198007", "SCT", "right lateral"
    tags = {"ViewPosition": None, "ViewCodeSequence": Sequence([code])}
    yield Refused("view code: right lateral", dicom_files.make_dicom(IMAGE, **tags), "not_frontal")


def unreadable() -> Iterator[Refused]:
    whole = dicom_files.make_dicom(IMAGE)
    yield Refused("pixels cut off", whole[:-500], "unreadable")
    yield Refused("header cut off", whole[:300], "no_pixels")
    jpeg = dicom_files.make_dicom(IMAGE, uid.JPEGBaseline8Bit, 8)
    yield Refused("a JPEG cut off in its last fragment", jpeg[: len(jpeg) - 600], "unreadable")
    yield Refused("a JPEG 2000 cut off", frame_cut(uid.JPEG2000Lossless), "unreadable")
    yield Refused("a JPEG-LS cut off", frame_cut(uid.JPEGLSLossless), "unreadable")
    yield Refused("a lossless JPEG cut off", frame_cut(uid.JPEGLosslessSV1), "unreadable")
    yield Refused("an RLE frame cut off", frame_cut(uid.RLELossless), "unreadable")
    larger = dicom_files.encode(np.tile(IMAGE, (2, 2)), uid.JPEGBaseline8Bit, 8)
    data = dicom_files.make_dicom(IMAGE, uid.JPEGBaseline8Bit, 8, frame=larger)
    yield Refused("a JPEG of another size than the header says", data, "unreadable")
    bomb = dicom_files.make_dicom(IMAGE).replace(
        struct.pack("<HH2sHH", 0x28, 0x10, b"US", 2, IMAGE.shape[0]),
        struct.pack("<HH2sHH", 0x28, 0x10, b"US", 2, 65535),
    )
    yield Refused("65,535 rows claimed", bomb, "too_large")
    yield Refused("a sequence 3,000 deep", nested(3000), "unreadable")
    yield Refused("a deflated object that grows a thousandfold", inflating(), "too_large")
    yield Refused("nothing after the prefix", b"\0" * 128 + b"DICM", "unreadable")


def frame_cut(syntax: str) -> bytes:
    codestream = dicom_files.encode(IMAGE, syntax, 8)
    return dicom_files.make_dicom(IMAGE, syntax, 8, frame=codestream[: len(codestream) * 2 // 3])


def nested(depth: int) -> bytes:
    opening = struct.pack("<HH2sHI", 0x08, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 2**32 - 1
    )
    return b"\0" * 128 + b"DICM" + _meta() + opening * depth


def _meta() -> bytes:
    whole = dicom_files.dataset_bytes(dicom_files.make_header())
    (length,) = struct.unpack_from("<I", whole, 140)
    return whole[132 : 144 + length]


def inflating() -> bytes:
    return dicom_files.make_dicom(np.zeros((3000, 3000), np.uint8), uid.DeflatedExplicitVRLittleEndian)
