"""The film that a result belongs to, as it goes back into its study.

Patient and study pass from this file into what is sent, element by element as they stand here, and nowhere else: they
are in no log, no error and no database.
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

# Modules Patient, General Study and Patient Study (PS3.3 C.7.1.1, C.7.2.1, C.7.2.2), without what only describes; those
# of type 2, which must be there even where nothing is known, first
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
    """A film's header, as far as it goes on into what is made of the film."""

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
        """Put patient and study, as they stand in the film, into a data set that was made of it."""
        target.StudyInstanceUID = self.study
        for keyword in (*TYPE_2_KEYWORDS, *OPTIONAL_KEYWORDS):
            if keyword in self._dataset:
                target[keyword] = self._dataset[keyword]
            elif keyword in TYPE_2_KEYWORDS:
                setattr(target, keyword, None)


def find_source_instance(notification: Notification, inboxes: Mapping[str, Path], max_bytes: int) -> SourceInstance:
    """The film of a notice, at the first of its places where its very bytes still stand.

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
    # one film's fault, not the destination's; a folder whose share is away looks empty, so it may come back
    raise DeliveryFailed("share_away" if unavailable else "image_gone", unavailable=False)


def parse_source_instance(data: bytes) -> SourceInstance:
    """Parsed in this process: these very bytes have passed a decoding child before."""
    import pydicom

    with pydicom_warnings_ignored():
        return SourceInstance(
            pydicom.dcmread(io.BytesIO(data), force=True, stop_before_pixels=True, specific_tags=[*HEADER_KEYWORDS])
        )


@contextmanager
def pydicom_warnings_ignored() -> Iterator[None]:
    """Without pydicom's warnings: they quote odd values, and headers are full of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


HEADER_KEYWORDS: Final = (*TYPE_2_KEYWORDS, *OPTIONAL_KEYWORDS, *IMAGE_KEYWORDS)
