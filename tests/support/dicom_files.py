"""DICOM images for tests: any transfer syntax, depth, sign and photometric interpretation, with known pixels."""

import io
import warnings
from typing import Any, Final

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

DX: Final = "1.2.840.10008.5.1.4.1.1.1.1"
ROOT: Final = "1.2.826.0.1.3680043.10.1234"  # of the instances that are made here
NATIVE: Final = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
)


def make_header(number: int = 1, **tags: Any) -> Dataset:
    """Make the header of a test image; tags by keyword are added, None removes one."""
    dataset = Dataset()
    given = {
        "SOPClassUID": DX,
        "SOPInstanceUID": f"{ROOT}.3.{number}",
        "SeriesInstanceUID": f"{ROOT}.2.{number}",
        "StudyInstanceUID": f"{ROOT}.1.{number}",
        "AccessionNumber": f"A{number}",
        "Modality": "DX",
        "ViewPosition": "AP",
        "BodyPartExamined": "CHEST",
        "StudyDate": "20240506",
        "PatientID": f"P{number}",
        "PatientName": "DOE^JANE",
        "PatientAge": "003Y",
        "PatientSex": "F",
        **tags,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that are wrong on purpose
        for keyword, value in given.items():
            if value is not None:
                setattr(dataset, keyword, value)
    return dataset


def make_dicom(
    values: NDArray[Any],
    syntax: str = uid.ExplicitVRLittleEndian,
    bits: int = 0,
    kind: str = "MONOCHROME2",
    planar: int = 0,
    frame: bytes | None = None,
    **tags: Any,
) -> bytes:
    """Make the file of an image with these stored values, (height, width) or (height, width, 3).

    Args:
        bits: stored; 0: as many as the values' type has.
        frame: a codestream to put in, instead of one made here.
    """
    dataset = make_header(**tags)
    dataset.Rows, dataset.Columns = values.shape[:2]
    dataset.SamplesPerPixel = 1 if values.ndim == 2 else 3
    dataset.PhotometricInterpretation = kind
    dataset.BitsAllocated = 8 * values.dtype.itemsize
    dataset.BitsStored = tags.get("BitsStored", bits or dataset.BitsAllocated)
    dataset.HighBit = tags.get("HighBit", dataset.BitsStored - 1)
    dataset.PixelRepresentation = int(values.dtype.kind == "i")
    if values.ndim == 3:
        dataset.PlanarConfiguration = planar
    if syntax in NATIVE:
        order = ">" if syntax == uid.ExplicitVRBigEndian else "<"
        arranged = np.moveaxis(values, -1, 0) if planar else values
        _put(dataset, arranged.astype(values.dtype.newbyteorder(order)).tobytes(), values.dtype.itemsize)
    else:
        codestream = encode(values, syntax, bits or 8 * values.dtype.itemsize) if frame is None else frame
        _put(dataset, encapsulate([codestream]), 1)
        dataset["PixelData"].is_undefined_length = True
    return dataset_bytes(dataset, syntax)


def dataset_bytes(dataset: Dataset, syntax: str = uid.ExplicitVRLittleEndian) -> bytes:
    """Return the file of a data set."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.UID(syntax)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", DX)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", ROOT)
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def encode(values: NDArray[Any], syntax: str, bits: int) -> bytes:
    """Compress one frame as this transfer syntax says."""
    plain = values.view(f"u{values.dtype.itemsize}") & np.array(2**bits - 1, f"u{values.dtype.itemsize}")
    if syntax == uid.RLELossless:
        return _run_lengths(plain)
    if syntax in (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit):
        return imagecodecs.jpeg8_encode(plain, level=98, bitspersample=bits)
    if syntax in (uid.JPEGLossless, uid.JPEGLosslessSV1):
        return imagecodecs.jpeg8_encode(plain, lossless=True, bitspersample=bits)
    if syntax == uid.JPEGLSLossless:
        return imagecodecs.jpegls_encode(plain)
    if syntax == uid.JPEGLSNearLossless:
        return imagecodecs.jpegls_encode(plain, level=2)
    lossy = syntax in (uid.JPEG2000, uid.HTJ2K)
    if syntax in (uid.JPEG2000Lossless, uid.JPEG2000):
        options = {"level": 60} if lossy else {"reversible": True}
        return imagecodecs.jpeg2k_encode(values, codecformat="j2k", bitspersample=bits, **options)
    return imagecodecs.htj2k_encode(values, **({"level": 0.0001, "reversible": False} if lossy else {}))


def _put(dataset: Dataset, data: bytes, size: int) -> None:
    dataset.add_new("PixelData", "OW" if size > 1 else "OB", data + b"\0" * (len(data) % 2))


def _run_lengths(values: NDArray[Any]) -> bytes:
    from pydicom.pixels.encoders.base import EncodeRunner
    from pydicom.pixels.encoders.native import _encode_frame

    runner = EncodeRunner(uid.RLELossless)
    runner.set_options(
        rows=values.shape[0],
        columns=values.shape[1],
        samples_per_pixel=1 if values.ndim == 2 else 3,
        bits_allocated=8 * values.dtype.itemsize,
        bits_stored=8 * values.dtype.itemsize,
        pixel_representation=0,
        photometric_interpretation="MONOCHROME2" if values.ndim == 2 else "RGB",
        number_of_frames=1,
        planar_configuration=0,
    )
    return bytes(_encode_frame(values.tobytes(), runner))


def lookup_table(entries: NDArray[np.uint16], bits: int, first: int = 0) -> Dataset:
    """Make an item of a modality or VOI LUT sequence."""
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    item.ModalityLUTType = "US"
    return item
