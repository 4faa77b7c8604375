"""Reduce a DICOM header to what may be stored of study and patient."""

import re
from datetime import date
from typing import Any, Final

from pneumowatch import patient_hashing
from pneumowatch.header import Header

UID_PATTERN: Final = re.compile(r"[0-9.]{1,64}")
AGE_PATTERN: Final = re.compile(r"(\d{3})([DWMY])")
UNITS_PER_YEAR: Final = {"D": 365.25, "W": 365.25 / 7, "M": 12.0, "Y": 1.0}
MAX_AGE_YEARS: Final = 130.0
DATE_KEYWORDS: Final = ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")  # the first that is set counts
SHORT_STRING_LENGTH: Final = 16  # characters: the maximum in DICOM, and in our columns


def extract_header(dataset: Any, patient_key: bytes | None) -> Header:
    """Return the values of a header; invalid, overlong and multiple ones count as missing."""
    return Header(
        study_uid=_uid(dataset, "StudyInstanceUID"),
        series_uid=_uid(dataset, "SeriesInstanceUID"),
        sop_uid=_uid(dataset, "SOPInstanceUID"),
        accession_number=_text(dataset, "AccessionNumber", 64),
        modality=_text(dataset, "Modality", SHORT_STRING_LENGTH),
        view_position=_text(dataset, "ViewPosition", SHORT_STRING_LENGTH),
        age_years=_age(dataset),
        sex=_sex(dataset),
        patient_key=_hashed_patient_id(dataset, patient_key),
    )


def _text(dataset: Any, keyword: str, longest: int) -> str | None:
    try:
        value = dataset.get(keyword)
    except Exception:  # noqa: BLE001 - pydicom raises many kinds of errors for invalid values
        return None
    text = value.strip("\0 ") if isinstance(value, str) else ""
    return text if text and len(text) <= longest and text.isprintable() else None


def _uid(dataset: Any, keyword: str) -> str | None:
    text = _text(dataset, keyword, 64)
    return text if text and UID_PATTERN.fullmatch(text) else None


def _age(dataset: Any) -> float | None:
    """Return the age at the study, in years. The birth date itself is never stored."""
    match = AGE_PATTERN.fullmatch(_text(dataset, "PatientAge", 4) or "")
    if match:
        years = int(match[1]) / UNITS_PER_YEAR[match[2]]
    else:
        birth_date = _date(dataset, "PatientBirthDate")
        study_date = next(filter(None, (_date(dataset, keyword) for keyword in DATE_KEYWORDS)), None)
        if birth_date is None or study_date is None:
            return None
        years = _years(birth_date, study_date)
    return round(years, 3) if 0 <= years <= MAX_AGE_YEARS else None


def _years(birth_date: date, study_date: date) -> float:
    """Return completed years and the fraction of the next: a whole number on each birthday, as ages are counted."""
    had_birthday = (study_date.month, study_date.day) >= (birth_date.month, birth_date.day)
    whole = study_date.year - birth_date.year - (not had_birthday)
    last = (
        date(birth_date.year + whole, 3, 1)
        if (birth_date.month, birth_date.day) == (2, 29)
        else birth_date.replace(year=birth_date.year + whole)
    )
    return whole + max((study_date - last).days, 0) / 366


def _date(dataset: Any, keyword: str) -> date | None:
    digits = (_text(dataset, keyword, 10) or "").replace(".", "")  # ACR-NEMA wrote 1993.08.22
    try:
        return date(int(digits[:4]), int(digits[4:6]), int(digits[6:])) if len(digits) == 8 else None
    except ValueError:
        return None


def _sex(dataset: Any) -> str | None:
    text = (_text(dataset, "PatientSex", SHORT_STRING_LENGTH) or "").upper()
    return text if text in ("M", "F", "O") else None


def _hashed_patient_id(dataset: Any, patient_key: bytes | None) -> str | None:
    patient = _text(dataset, "PatientID", 255)
    if patient is None or patient_key is None:
        return None
    issuer = _text(dataset, "IssuerOfPatientID", 255) or ""
    return patient_hashing.hash_patient_id(patient_key, patient, issuer)
