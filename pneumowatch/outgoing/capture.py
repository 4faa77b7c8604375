"""The film under the heat of what moved the model, as a DICOM secondary capture that says so in the picture."""

from typing import Any, Final

import numpy as np

from pneumowatch import __version__, overlay
from pneumowatch.dicom import MAKER
from pneumowatch.film import Pixels
from pneumowatch.outgoing.notice import Notice
from pneumowatch.outgoing.original import Original
from pneumowatch.outgoing.report import caution, dated

SERIES_NUMBER: Final = 9802
LONGER_EDGE: Final = 1024  # pixels of the film in the picture; the model sees fewer
NARROWEST: Final = 256  # pixels, for the legend to be readable


def made(notice: Notice, original: Original, film: Pixels, heat: Pixels) -> Any:
    """The data set of the picture, the same at every repeat.

    Args:
        film: as the model saw it, uint8 (side, side).
        heat: the probability of each place, uint8 (h, w), 255 being 1.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = notice.uid("capture")
    dataset.SeriesInstanceUID = notice.uid("capture series")
    dataset.SeriesNumber, dataset.InstanceNumber = SERIES_NUMBER, 1
    dataset.Modality, dataset.ConversionType = "OT", "WSD"
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.Manufacturer = dataset.ManufacturerModelName = MAKER
    dataset.SoftwareVersions = [__version__, notice.model_version[:64]]
    dataset.SeriesDescription = "pneumowatch: what moved the model"
    dataset.DerivationDescription = f"{overlay.LEGEND}; research use only"
    dataset.BodyPartExamined = "CHEST"
    dataset.PatientOrientation = original.orientation
    dataset.BurnedInAnnotation = "NO"  # words, but none that name a patient
    _refer(dataset, original)
    _draw(dataset, notice, original, film, heat)
    dated(dataset, notice)
    original.stamp(dataset)
    return dataset


def _refer(dataset: Any, original: Original) -> None:
    from pydicom.dataset import Dataset
    from pydicom.sr.codedict import codes

    source, purpose, code = Dataset(), Dataset(), codes.DCM.SourceImageForImageProcessingOperation
    purpose.CodeValue, purpose.CodingSchemeDesignator = code.value, code.scheme_designator
    purpose.CodeMeaning = code.meaning
    source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = original.sop_class, original.sop_instance
    source.PurposeOfReferenceCodeSequence = [purpose]
    dataset.SourceImageSequence = [source]


def _draw(dataset: Any, notice: Notice, original: Original, film: Pixels, heat: Pixels) -> None:
    said = f"flagged for pneumonia, probability {notice.probability:.2f}, threshold {notice.threshold:.2f}"
    lines = [said, f"pneumowatch, model {notice.model_version}", "research use only; not flagged is not cleared"]
    if remark := caution(notice):
        lines.append(remark)
    hot = heat.astype(np.float32) / np.float32(255)
    picture = overlay.picture(film, hot, size_of(original.columns, original.rows), lines)
    dataset.Columns, dataset.Rows = picture.size
    dataset.SamplesPerPixel, dataset.PlanarConfiguration = 3, 0
    dataset.PhotometricInterpretation = "RGB"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    pixels = picture.tobytes()
    dataset.add_new("PixelData", "OB", pixels + b"\0" * (len(pixels) % 2))


def size_of(columns: int, rows: int) -> tuple[int, int]:
    """Width and height in the picture: the film's own aspect, which the model does not see."""
    scale = LONGER_EDGE / max(columns, rows)
    return max(NARROWEST, round(columns * scale)), max(NARROWEST, round(rows * scale))
