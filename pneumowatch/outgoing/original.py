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

from pneumowatch import share
from pneumowatch.errors import FilmRejected, ShareAway, Undelivered
from pneumowatch.outgoing.notice import Notice

# Modules Patient, General Study and Patient Study (PS3.3 C.7.1.1, C.7.2.1, C.7.2.2), without what only describes; those
# of type 2, which must be there even where nothing is known, first
MUST: Final = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName",
    "StudyID", "AccessionNumber",
)  # fmt: skip
MAY: Final = (
    "SpecificCharacterSet", "TimezoneOffsetFromUTC", "IssuerOfPatientID", "PatientBirthTime", "OtherPatientIDs",
    "OtherPatientIDsSequence", "PatientIdentityRemoved", "DeidentificationMethod",
    "DeidentificationMethodCodeSequence", "StudyDescription", "IssuerOfAccessionNumberSequence", "PatientAge",
)  # fmt: skip
OF_THE_FILM: Final = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns", "PatientOrientation",
)  # fmt: skip

logging.getLogger("pydicom").disabled = True  # it quotes values, patients' names among them


class Original:
    """A film's header, as far as it goes on into what is made of the film."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        if any(not dataset.get(keyword) for keyword in OF_THE_FILM[:4]):
            raise Undelivered("film_without_uids", away=False, final=True)
        self.sop_class: str = dataset.SOPClassUID
        self.sop_instance: str = dataset.SOPInstanceUID
        self.study: str = dataset.StudyInstanceUID
        self.series: str = dataset.SeriesInstanceUID
        self.rows = int(dataset.get("Rows") or 1)
        self.columns = int(dataset.get("Columns") or 1)
        self.orientation = dataset.get("PatientOrientation")

    def stamp(self, made: Any) -> None:
        """Put patient and study, as they stand in the film, into a data set that was made of it."""
        made.StudyInstanceUID = self.study
        for keyword in (*MUST, *MAY):
            if keyword in self._dataset:
                made[keyword] = self._dataset[keyword]
            elif keyword in MUST:
                setattr(made, keyword, None)


def find(notice: Notice, inboxes: Mapping[str, Path], max_bytes: int) -> Original:
    """The film of a notice, at the first of its places where its very bytes still stand.

    Raises Undelivered: `share_away`, `film_gone` or `film_without_uids`.
    """
    away = False
    for inbox, path in notice.places:
        try:
            if inbox not in inboxes:
                raise ShareAway("This machine does not know the inbox.")
            data = share.read(inboxes[inbox], path, max_bytes).data
        except ShareAway:
            away = True
            continue
        except FilmRejected:
            continue
        if hashlib.sha256(data).hexdigest() == notice.sha256:
            return read(data)
    # one film's fault, not the destination's; a folder whose share is away looks empty, so it may come back
    raise Undelivered("share_away" if away else "film_gone", away=False)


def read(data: bytes) -> Original:
    """Parsed in this process: these very bytes have passed a decoding child before."""
    import pydicom

    with quiet():
        return Original(pydicom.dcmread(io.BytesIO(data), force=True, stop_before_pixels=True, specific_tags=[*TAGS]))


@contextmanager
def quiet() -> Iterator[None]:
    """Without pydicom's warnings: they quote odd values, and headers are full of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


TAGS: Final = (*MUST, *MAY, *OF_THE_FILM)
