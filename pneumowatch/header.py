"""What a film's DICOM header tells that may be kept: no name, no birth date, no patient ID."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Header:
    """None where the header does not say, or says something that cannot be so.

    `age_years`: at the study. `sex`: M, F or O. `patient_key`: keyed hash (HMAC-SHA-256, hex) of the patient ID and its
    issuer; None without a key. `pixels_sha256`: of the stored pixel values and their shape and type, whatever their
    encoding; with the SOP instance it tells a film that is sent again under another header.
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
