"""The values of a DICOM header that may be stored: no name, no birth date, no patient ID."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Header:
    """Values of a header; None where the header does not state one, or states an impossible one.

    `age_years`: age at the study. `sex`: M, F or O. `patient_key`: keyed hash (HMAC-SHA-256, hex) of the patient ID and
    its issuer; None without a key. `pixels_sha256`: hash of the stored pixel values, their shape and type, whatever
    their encoding; with the SOP instance UID it identifies an image that is sent again under another header.
    """

    study_uid: str | None = None
    series_uid: str | None = None
    sop_uid: str | None = None
    accession_number: str | None = None
    modality: str | None = None
    view_position: str | None = None
    age_years: float | None = None
    sex: str | None = None
    patient_key: str | None = None
    pixels_sha256: str | None = None
