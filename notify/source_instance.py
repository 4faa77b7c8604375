"""Find the DICOM instance that a result belongs to, and copy its patient and study into objects for the PACS.

Their elements pass unchanged from the file into the objects that are sent, and nowhere else: never into a log, an error
or the database.
"""

import hashlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from pneumowatch import shared_files
from pneumowatch.errors import DeliveryFailed, ImageRejected, ShareUnavailable
from pneumowatch.notification import Notification

# Modules Patient, General Study and Patient Study (PS3.3 C.7.1.1, C.7.2.1, C.7.2.2), without purely descriptive
# elements. Those of type 2 come first: they must be present even if empty.
TYPE_2_KEYWORDS: Final = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName",
    "StudyID", "AccessionNumber",
)  # fmt: skip
OPTIONAL_KEYWORDS: Final = (
    "SpecificCharacterSet", "TimezoneOffsetFromUTC", "IssuerOfPatientID", "PatientBirthTime", "OtherPatientIDs",
    "OtherPatientIDsSequence", "PatientIdentityRemoved", "DeidentificationMethod",
    "DeidentificationMethodCodeSequence", "StudyDescription", "IssuerOfAccessionNumberSequence", "PatientAge",
)  # fmt: skip
IMAGE_KEYWORDS: Final = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns", "PatientOrientation",
)  # fmt: skip

logging.getLogger("pydicom").disabled = True  # it quotes values, patients' names among them


class SourceInstance:
    """The header of an image, as far as the objects made from the image need it."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        if any(not dataset.get(keyword) for keyword in IMAGE_KEYWORDS[:4]):
            raise DeliveryFailed("image_without_uids", unavailable=False, permanent=True)
        self.sop_class: str = dataset.SOPClassUID
        self.sop_instance: str = dataset.SOPInstanceUID
        self.study: str = dataset.StudyInstanceUID
        self.series: str = dataset.SeriesInstanceUID
        self.rows = int(dataset.get("Rows") or 1)
        self.columns = int(dataset.get("Columns") or 1)
        self.orientation = dataset.get("PatientOrientation")

    def copy_patient_and_study(self, target: Any) -> None:
        """Copy patient and study, unchanged, into a data set that was made from the image."""
        target.StudyInstanceUID = self.study
        for keyword in (*TYPE_2_KEYWORDS, *OPTIONAL_KEYWORDS):
            if keyword in self._dataset:
                target[keyword] = self._dataset[keyword]
            elif keyword in TYPE_2_KEYWORDS:
                setattr(target, keyword, None)


def find_source_instance(notification: Notification, inboxes: Mapping[str, Path], max_bytes: int) -> SourceInstance:
    """Return the instance of a notification, from the first copy that still has the same bytes.

    Raises DeliveryFailed: `share_away`, `image_gone` or `image_without_uids`.
    """
    unavailable = False
    for inbox, path in notification.copies:
        try:
            if inbox not in inboxes:
                raise ShareUnavailable("This machine does not know the inbox.")
            data = shared_files.read_file(inboxes[inbox], path, max_bytes).data
        except ShareUnavailable:
            unavailable = True
            continue
        except ImageRejected:
            continue
        if hashlib.sha256(data).hexdigest() == notification.sha256:
            return parse_source_instance(data)
    # the destination works; and not permanent, as a folder without its share looks empty until the share is back
    raise DeliveryFailed("share_away" if unavailable else "image_gone", unavailable=False)


def parse_source_instance(data: bytes) -> SourceInstance:
    """Parse in this process: a decoding child process has read the same bytes before."""
    import pydicom

    with pydicom_warnings_ignored():
        return SourceInstance(
            pydicom.dcmread(io.BytesIO(data), force=True, stop_before_pixels=True, specific_tags=[*HEADER_KEYWORDS])
        )


@contextmanager
def pydicom_warnings_ignored() -> Iterator[None]:
    """Ignore the warnings of pydicom: they quote odd values, which are common in headers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


HEADER_KEYWORDS: Final = (*TYPE_2_KEYWORDS, *OPTIONAL_KEYWORDS, *IMAGE_KEYWORDS)
