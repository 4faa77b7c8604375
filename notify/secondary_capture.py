"""Build a DICOM secondary capture: the image with the heat map of what moved the model, and a legend that says so."""

from typing import Any, Final

import numpy as np

from notify.source_instance import SourceInstance
from notify.structured_report import caution_sentence, set_result_time
from pneumowatch import __version__
from pneumowatch.imaging import overlay
from pneumowatch.imaging.dicom import MANUFACTURER
from pneumowatch.imaging.reader import Pixels
from pneumowatch.notification import Notification

CAPTURE_SERIES_NUMBER: Final = 9802
LONGER_EDGE: Final = 1024  # pixels of the image in the capture; the model sees fewer
MIN_EDGE: Final = 256  # pixels, for the legend to be readable


def build_capture(notification: Notification, source: SourceInstance, pixels: Pixels, heatmap: Pixels) -> Any:
    """Build the data set of the capture, the same at every repeat.

    Args:
        pixels: the image as the model saw it, uint8 (side, side).
        heatmap: the probability of each place, uint8 (h, w), 255 being 1.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = notification.uid("capture")
    dataset.SeriesInstanceUID = notification.uid("capture series")
    dataset.SeriesNumber, dataset.InstanceNumber = CAPTURE_SERIES_NUMBER, 1
    dataset.Modality, dataset.ConversionType = "OT", "WSD"
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.Manufacturer = dataset.ManufacturerModelName = MANUFACTURER
    dataset.SoftwareVersions = [__version__, notification.model_version[:64]]
    dataset.SeriesDescription = "pneumowatch: what moved the model"
    dataset.DerivationDescription = f"{overlay.LEGEND}; research use only"
    dataset.BodyPartExamined = "CHEST"
    dataset.PatientOrientation = source.orientation
    dataset.BurnedInAnnotation = "NO"  # text, but none that identifies a patient
    _reference_source(dataset, source)
    _draw(dataset, notification, source, pixels, heatmap)
    set_result_time(dataset, notification)
    source.copy_patient_and_study(dataset)
    return dataset


def _reference_source(dataset: Any, source: SourceInstance) -> None:
    from pydicom.dataset import Dataset
    from pydicom.sr.codedict import codes

    reference, purpose, code = Dataset(), Dataset(), codes.DCM.SourceImageForImageProcessingOperation
    purpose.CodeValue, purpose.CodingSchemeDesignator = code.value, code.scheme_designator
    purpose.CodeMeaning = code.meaning
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = source.sop_class, source.sop_instance
    reference.PurposeOfReferenceCodeSequence = [purpose]
    dataset.SourceImageSequence = [reference]


def _draw(dataset: Any, notification: Notification, source: SourceInstance, pixels: Pixels, heatmap: Pixels) -> None:
    result_line = (
        f"flagged for pneumonia, probability {notification.probability:.2f}, threshold {notification.threshold:.2f}"
    )
    lines = [
        result_line,
        f"pneumowatch, model {notification.model_version}",
        "research use only; not flagged is not cleared",
    ]
    if caution_line := caution_sentence(notification):
        lines.append(caution_line)
    activation = heatmap.astype(np.float32) / np.float32(255)
    picture = overlay.render_overlay(pixels, activation, capture_size(source.columns, source.rows), lines)
    dataset.Columns, dataset.Rows = picture.size
    dataset.SamplesPerPixel, dataset.PlanarConfiguration = 3, 0
    dataset.PhotometricInterpretation = "RGB"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    raw = picture.tobytes()
    dataset.add_new("PixelData", "OB", raw + b"\0" * (len(raw) % 2))


def capture_size(columns: int, rows: int) -> tuple[int, int]:
    """Return width and height in the capture, in the aspect ratio of the original, which the model does not see."""
    scale = LONGER_EDGE / max(columns, rows)
    return max(MIN_EDGE, round(columns * scale)), max(MIN_EDGE, round(rows * scale))
