"""Read DICOM objects: refuse those that are no frontal chest x-ray, read the header, convert the pixels to gray.

pydicom parses them and decodes uncompressed pixels. It is imported late, as most processes never read a DICOM object.
"""

import hashlib
import io
import logging
import re
import struct
import warnings
import zlib
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pneumowatch.errors import TOO_MUCH_MEMORY, ImageRejected
from pneumowatch.header import Header
from pneumowatch.imaging import codecs, dicom_header, windowing

Gray = NDArray[np.uint8]

PREAMBLE: Final = 128
DICM_PREFIX: Final = b"DICM"
META_START: Final = PREAMBLE + len(DICM_PREFIX)  # offset of the meta group
FIRST_GROUPS: Final = (0x0002, 0x0008)  # with which an object without its preamble begins
FIRST_ELEMENTS: Final = 0x0070  # ... and how far into that group
FIRST_BYTES: Final = 256  # ... and how long such an element may be
VALUE_REPRESENTATIONS: Final = frozenset(b"AE AS CS DA DS DT IS LO LT OB OW PN SH SQ ST TM UI UL UN US UT".split())
ENCAPSULATED_PIXELS: Final = b"\xe0\x7f\x10\x00OB"  # the start of compressed pixels
DEFLATED: Final = "1.2.840.10008.1.2.1.99"
RLE: Final = "1.2.840.10008.1.2.5"
INFLATED_BYTES: Final = 8  # largest inflated size, per pixel that is allowed
NON_LETTERS: Final = re.compile(r"[^A-Z]+")

# Modalities and storage classes of radiographs. A missing or private value is accepted.
# https://dicom.nema.org/medical/dicom/current/output/chtml/part03/sect_C.7.3.html#sect_C.7.3.1.1.1
MODALITIES: Final = frozenset({"CR", "DX", "DR", "RG", "OT", "SC"})
STORAGE_CLASS_PREFIX: Final = "1.2.840.10008.5.1.4.1.1."
XRAY_STORAGE_CLASSES: Final = ("1", "1.1", "1.1.1", "7", "7.1", "7.2", "7.3", "7.4")  # CR, DX, secondary capture

# Body parts are free text in many languages: only known names of other parts are refused.
CHEST_WORDS: Final = ("CHEST", "THOR", "TORA", "LUNG", "RIB", "PULMO", "BRUST", "POITRINE")
OTHER_BODY_PARTS: Final = frozenset(
    {
        "ABDOMEN", "ANKLE", "ARM", "BRAIN", "BREAST", "CALCANEUS", "CERVICAL", "CLAVICLE", "COCCYX", "CSPINE",
        "ELBOW", "EXTREMITY", "EYE", "FEMUR", "FINGER", "FOOT", "FOREARM", "HAND", "HEAD", "HIP", "HUMERUS", "JAW",
        "KIDNEY", "KNEE", "LEG", "LSPINE", "LUMBAR", "MANDIBLE", "MAXILLA", "NECK", "ORBIT", "PATELLA", "PELVIS",
        "SACRUM", "SCAPULA", "SHOULDER", "SKULL", "SPINE", "TEETH", "TIBIA", "TOE", "TOOTH", "TSPINE", "URETER",
        "WRIST", "ZYGOMA",
    }
)  # fmt: skip
LATERAL_VIEWS: Final = frozenset({"LL", "RL", "LLO", "RLO", "LAT", "LATERAL", "LLAT", "RLAT", "OBL", "OBLIQUE"})

TAGS: Final = [
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "AccessionNumber", "Modality",
    "ViewPosition", "ViewCodeSequence", "BodyPartExamined", "AnatomicRegionSequence", "StudyDate", "SeriesDate",
    "AcquisitionDate", "ContentDate", "PatientID", "IssuerOfPatientID", "PatientAge", "PatientBirthDate", "PatientSex",
    "DirectoryRecordSequence", "NumberOfFrames", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation",
    "PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue",
    "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "WindowCenter", "WindowWidth",
    "VOILUTFunction", "VOILUTSequence", "PresentationLUTShape", "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData", "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PixelData",
    "FloatPixelData", "DoubleFloatPixelData", "Manufacturer",
]  # fmt: skip

MANUFACTURER: Final = "pneumowatch"  # in objects that pneumowatch makes for a PACS

logging.getLogger("pydicom").disabled = True  # it quotes values, patients' names among them


def is_dicom(data: bytes) -> bool:
    """Tell by content whether this is a DICOM object: it has the preamble, or begins like a data set."""
    if data[PREAMBLE : PREAMBLE + 4] == DICM_PREFIX:
        return True
    return any(_begins_data_set(data[:FIRST_BYTES], order) for order in "<>")


def read_dicom(data: bytes, max_pixels: int, patient_key: bytes | None) -> tuple[Gray, Header]:
    """Read the pixels as 8-bit gray, (height, width), 0 black, and the header.

    Raises:
        ImageRejected: with the header, as far as it could be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd values are common, and the warnings quote them
        dataset = _parse(data, max_pixels)
        header = _guarded(lambda: dicom_header.extract_header(dataset, patient_key), Header())
        try:
            # all guarded, as pydicom parses a value only at its first use
            _guarded(lambda: _reject_other_kinds(dataset), header)
            _guarded(lambda: _reject_sizes(dataset, max_pixels), header)
            stored, is_luminance = _guarded(lambda: _stored_values(dataset), header)
            gray = _guarded(lambda: _gray(stored, is_luminance, dataset), header)
        except ImageRejected as fault:
            raise ImageRejected(fault.reason, fault.sentence, header) from None
        return gray, replace(header, pixels_sha256=_pixels_sha256(stored) if header.sop_uid else None)


def _guarded(work: Any, header: Header) -> Any:
    """Run `work`, and raise ImageRejected for any error that a damaged object causes in a parser or decoder."""
    try:
        return work()
    except ImageRejected:
        raise
    except MemoryError:
        raise ImageRejected("too_large", TOO_MUCH_MEMORY, header) from None
    except Exception:  # noqa: BLE001 - RecursionError, struct.error, KeyError, those of codecs, ...
        raise ImageRejected("unreadable", "The DICOM object is damaged or incomplete; send it again.", header) from None


def _begins_data_set(head: bytes, order: str) -> bool:
    if len(head) < 12:
        return False
    group, element = struct.unpack_from(f"{order}HH", head)
    if group not in FIRST_GROUPS or element > FIRST_ELEMENTS:
        return False
    if head[4:6] in VALUE_REPRESENTATIONS:
        return True
    (length,) = struct.unpack_from("<I", head, 4)  # implicit value representations are little-endian only
    return order == "<" and length <= FIRST_BYTES and length % 2 == 0 and head[8 : 8 + length].isascii()


def _parse(data: bytes, max_pixels: int) -> Any:
    return _guarded(lambda: _parse_deflated(data, max_pixels) or _parse_plain(data), Header())


def _parse_plain(data: bytes) -> Any:
    import pydicom

    dataset = pydicom.dcmread(io.BytesIO(data), force=True, specific_tags=TAGS)
    if not len(dataset) and ENCAPSULATED_PIXELS in data:
        # cut off within compressed pixels: pydicom then returns nothing, not even the header
        dataset = pydicom.dcmread(io.BytesIO(data[: data.index(ENCAPSULATED_PIXELS)]), force=True, specific_tags=TAGS)
    if not len(dataset) and not len(getattr(dataset, "file_meta", ())):
        raise ValueError("no data set")
    return dataset


def _parse_deflated(data: bytes, max_pixels: int) -> Any:
    """Parse a deflated object, inflated up to a limit (pydicom has none); return None for any other object."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.filereader import read_dataset

    if data[PREAMBLE : PREAMBLE + 4] != DICM_PREFIX or DEFLATED.encode() not in data[:2048]:
        return None
    # the length of the meta group, which is always explicit little-endian
    (length,) = struct.unpack_from("<I", data, META_START + 8)
    start = META_START + 12 + length
    meta = FileMetaDataset(read_dataset(io.BytesIO(data[META_START:start]), False, True))
    if meta.get("TransferSyntaxUID") != DEFLATED:
        return None
    inflator = zlib.decompressobj(-zlib.MAX_WBITS)
    plain = inflator.decompress(data[start:], INFLATED_BYTES * max_pixels)
    if inflator.unconsumed_tail:
        raise ImageRejected("too_large", "The deflated DICOM object is larger than allowed when inflated.")
    if not inflator.eof:
        raise ValueError("cut off")
    dataset = read_dataset(io.BytesIO(plain), False, True, specific_tags=[_tag(keyword) for keyword in TAGS])
    dataset.file_meta = meta
    return dataset


def _tag(keyword: str) -> Any:
    from pydicom.tag import Tag

    return Tag(keyword)


def _reject_other_kinds(dataset: Any) -> None:
    """Raise ImageRejected where the header shows that this is no frontal chest x-ray."""
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        if "Rows" in dataset:
            raise ImageRejected("unreadable", "The DICOM object ends before its pixels do; send it again.")
        raise ImageRejected("no_pixels", f"This DICOM object{_kind(dataset)} holds no image; send the image itself.")
    # else our own secondary captures would be processed and sent to the PACS again, without end
    if str(dataset.get("Manufacturer") or "").strip() == MANUFACTURER:
        raise ImageRejected("not_chest_xray", "pneumowatch itself made this object; send the original image.")
    modality, storage = _upper(dataset, "Modality"), str(dataset.get("SOPClassUID") or "")
    other_storage = (
        storage.startswith(STORAGE_CLASS_PREFIX)
        and storage.removeprefix(STORAGE_CLASS_PREFIX) not in XRAY_STORAGE_CLASSES
    )
    if other_storage:
        raise ImageRejected("not_chest_xray", f"This is not an x-ray image{_kind(dataset)}; send CR or DX objects.")
    if modality and modality not in MODALITIES:
        raise ImageRejected("not_chest_xray", "The header names a modality other than x-ray; send CR or DX objects.")
    if _is_other_body_part(_upper(dataset, "BodyPartExamined")) or _is_other_body_part(
        _meaning(dataset, "AnatomicRegion")
    ):
        raise ImageRejected(
            "not_chest_xray", "The header says that this image shows another body part; send a chest x-ray."
        )
    if _is_lateral(dataset):
        raise ImageRejected("not_frontal", "The header says that this is not a frontal view; send the frontal view.")
    frames = dataset.get("NumberOfFrames")
    if frames is not None and str(frames).strip() not in ("", "0", "1"):
        raise ImageRejected("unsupported", "This object holds several frames; send each image as an object of its own.")
    if "PixelData" not in dataset:
        raise ImageRejected(
            "unsupported", "Floating-point pixels are not supported; send the image with integer pixels."
        )


def _kind(dataset: Any) -> str:
    """Return the name of the storage class, in parentheses, where DICOM has one; else an empty string."""
    from pydicom.uid import UID_dictionary

    known = UID_dictionary.get(str(dataset.get("SOPClassUID") or ""))
    return f" ({known[0]})" if known else ""


def _is_other_body_part(text: str) -> bool:
    if any(word in text for word in CHEST_WORDS):
        return False
    words = set(NON_LETTERS.split(text)) | {NON_LETTERS.sub("", text)}
    return bool(words & OTHER_BODY_PARTS)


def _is_lateral(dataset: Any) -> bool:
    meaning = _meaning(dataset, "ViewCode")
    is_other_view = ("LATERAL" in meaning and "DECUBITUS" not in meaning) or "OBLIQUE" in meaning
    return is_other_view or _upper(dataset, "ViewPosition") in LATERAL_VIEWS


def _meaning(dataset: Any, sequence: str) -> str:
    items = dataset.get(f"{sequence}Sequence")
    return _upper(items[0], "CodeMeaning") if items else ""


def _upper(dataset: Any, keyword: str) -> str:
    try:
        value = dataset.get(keyword)
    except Exception:  # noqa: BLE001 - an invalid value counts as missing
        return ""
    return value.strip().upper() if isinstance(value, str) else ""


def _reject_sizes(dataset: Any, max_pixels: int) -> None:
    rows, columns = dataset.get("Rows"), dataset.get("Columns")
    if not isinstance(rows, int) or not isinstance(columns, int) or rows * columns == 0:
        raise ImageRejected(
            "unreadable", "The header does not state the number of rows and columns; export the image again."
        )
    if rows * columns > max_pixels:
        raise ImageRejected(
            "too_large", f"The image has {columns} x {rows} pixels; at most {max_pixels:,} are allowed."
        )
    if dataset.get("BitsAllocated") not in (1, 8, 16) or dataset.get("SamplesPerPixel", 1) not in (1, 3):
        raise ImageRejected("unsupported", "Only images of 8 to 16 bits with one or three components are supported.")


def _stored_values(dataset: Any) -> tuple[codecs.StoredValues, bool]:
    """Return the stored values, and whether they are the luminance of a colour image."""
    element = dataset.get_item("PixelData")
    if element.is_undefined_length if hasattr(element, "is_undefined_length") else element.length == 0xFFFFFFFF:
        return _decompressed(dataset)
    from pydicom.pixels import pixel_array

    if "TransferSyntaxUID" not in getattr(dataset, "file_meta", {}):
        _guess_syntax(dataset)
    values = pixel_array(
        dataset, raw=True, correct_unused_bits=False
    )  # pydicom would only clear bits above the stored ones
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    return (values if values.ndim == 3 else _without_unused_bits(values, dataset)), False


def _decompressed(dataset: Any) -> tuple[codecs.StoredValues, bool]:
    from pydicom.encaps import get_frame

    rows, columns, samples = dataset.Rows, dataset.Columns, dataset.get("SamplesPerPixel", 1)
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    if getattr(dataset, "file_meta", {}).get("TransferSyntaxUID") == RLE:
        values = codecs.decode_rle(frame, rows, columns, samples, dataset.BitsAllocated)
        return (_without_unused_bits(values, dataset) if samples == 1 else values), False
    values = codecs.decode_frame(frame, rows, columns, dataset.get("PhotometricInterpretation") == "RGB")
    if samples == 3:
        return values, values.ndim == 2
    return _signed(values, dataset), False


def _guess_syntax(dataset: Any) -> None:
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    implicit, little = dataset.original_encoding
    plain = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    meta = getattr(dataset, "file_meta", None) or FileMetaDataset()
    meta.TransferSyntaxUID = plain
    dataset.file_meta = meta


def _without_unused_bits(values: codecs.StoredValues, dataset: Any) -> codecs.StoredValues:
    """Remove what older objects store in the bits that the image does not use, mostly overlays."""
    allocated, stored = dataset.BitsAllocated, dataset.get("BitsStored") or dataset.BitsAllocated
    shift = dataset.get("HighBit", stored - 1) + 1 - stored
    if allocated == 1 or stored >= allocated or shift < 0:
        return _signed(values, dataset)
    bits = values.view(f"u{allocated // 8}") >> shift
    return _signed(bits & np.array(2**stored - 1, bits.dtype), dataset)


def _signed(values: codecs.StoredValues, dataset: Any) -> codecs.StoredValues:
    """Interpret the stored bits as two's complement, where the header says so and the decoder did not."""
    if not dataset.get("PixelRepresentation") or values.dtype.kind == "i":
        return values
    container = 8 * values.dtype.itemsize
    spare = container - min(dataset.get("BitsStored") or container, container)
    return (values << spare).view(f"i{values.dtype.itemsize}") >> spare


def _gray(stored: codecs.StoredValues, is_luminance: bool, dataset: Any) -> Gray:
    kind = str(dataset.get("PhotometricInterpretation") or "")
    if kind == "PALETTE COLOR":
        from pydicom.pixels import apply_color_lut

        return _luminance(apply_color_lut(stored, dataset), "RGB", None)
    if is_luminance:
        return stored.astype(np.uint8, copy=False)
    if stored.ndim == 3:
        return _luminance(stored, kind, dataset.get("BitsStored"))
    return windowing.to_gray(stored, dataset)


def _luminance(colour: codecs.StoredValues, kind: str, bits: int | None) -> Gray:
    """Return the ITU-R 601-2 luminance of RGB, or the luminance component itself, as 8-bit gray."""
    top = 2 ** (bits or 8 * colour.dtype.itemsize) - 1
    if kind.startswith("YBR_PARTIAL"):  # black at 16 and white at 235 of 255
        return _to_uint8((colour[..., 0] / top - 16 / 255) * (255 / 219))
    if kind in ("YBR_FULL", "YBR_FULL_422"):
        return _to_uint8(colour[..., 0] / top)
    return _to_uint8(colour @ np.array([0.299, 0.587, 0.114]) / top)


def _pixels_sha256(stored: codecs.StoredValues) -> str:
    """Return the hash of values, shape and type, in one byte order, for `Header.pixels_sha256`."""
    kind = np.dtype(f"{stored.dtype.kind}{stored.dtype.itemsize}").newbyteorder("<")
    digest = hashlib.sha256(f"{stored.shape} {kind.str} ".encode())
    digest.update(np.ascontiguousarray(stored, kind).tobytes())
    return digest.hexdigest()


def _to_uint8(gray: NDArray[np.floating]) -> Gray:
    return np.round(np.clip(gray, 0, 1) * 255).astype(np.uint8)
