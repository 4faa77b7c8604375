"""The DICOM reader: known pixels in every encoding, other objects refused, headers kept without the patient."""

import hashlib
import hmac
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from formats import dicom_images, refused, same_image
from pydicom import uid
from support import dicom_files

from pneumowatch.errors import ImageRejected
from pneumowatch.header import Header
from pneumowatch.imaging import dicom, reader

SIDE = 48
KEY = b"a secret"
COLLECTION = Path(pydicom.__file__).parent / "data"
PIXELS = dicom_images.IMAGE


@pytest.mark.parametrize(
    "case", list(dicom_images.cases()), ids=lambda case: f"{uid.UID(case.syntax).keyword}, {case.what}"
)
def test_the_gray_levels_of_an_image_are_those_it_shows(case: dicom_images.Case) -> None:
    assert case.off() <= case.tolerance


@pytest.mark.parametrize("case", list(refused.cases()), ids=lambda case: case.what)
def test_what_is_no_image_to_be_read_is_refused_with_its_reason(case: refused.Refused) -> None:
    with pytest.raises(ImageRejected) as caught:
        reader.read_image(case.data, SIDE, refused.MAX_PIXELS)
    assert caught.value.reason == case.reason
    assert "DOE" not in caught.value.sentence


def test_the_same_image_has_the_same_probability_however_it_is_encoded(tmp_path: Path) -> None:
    found = same_image.probabilities(tmp_path)
    assert len(found) >= 9
    assert len(set(found.values())) == 1
    assert None not in found.values()


def test_a_refused_object_still_tells_its_study() -> None:
    with pytest.raises(ImageRejected) as caught:
        reader.read_image(dicom_files.make_dicom(PIXELS, number=7, Modality="CT"), SIDE)
    assert caught.value.header is not None
    assert caught.value.header.study_uid == f"{dicom_files.ROOT}.1.7"
    jpeg = dicom_files.make_dicom(PIXELS, uid.JPEGBaseline8Bit, 8, number=8)
    with pytest.raises(ImageRejected) as caught:
        reader.read_image(jpeg[:-500], SIDE)
    assert caught.value.header is not None
    assert caught.value.header.study_uid == f"{dicom_files.ROOT}.1.8"


# told by content


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_an_object_without_preamble_and_meta_group_is_read(syntax: str) -> None:
    whole = dicom_files.make_dicom(PIXELS, syntax)
    bare = whole[144 + int.from_bytes(whole[140:144], "little") :]
    np.testing.assert_array_equal(reader.read_pixels(bare, SIDE), reader.read_pixels(whole, SIDE))


def test_an_object_without_preamble_but_with_meta_group_is_read() -> None:
    whole = dicom_files.make_dicom(PIXELS, uid.JPEG2000Lossless, 8)
    np.testing.assert_array_equal(reader.read_pixels(whole[132:], SIDE), reader.read_pixels(whole, SIDE))


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n" + b"\0" * 200, b"II*\0" + b"\0" * 300, b"BM" + b"\0" * 300,
        b"GIF89a" + b"\0" * 200, b"%PDF-1.7" + b" " * 300, b"\0" * 1000, b"\x08\0" * 100, b"DOE^JANE " * 100,
    ],
)  # fmt: skip
def test_other_files_are_not_taken_for_dicom(data: bytes) -> None:
    assert not dicom.is_dicom(data)


# what the header says


def header_of(**tags: Any) -> Header:
    found = reader.read_image(dicom_files.make_dicom(PIXELS, **tags), SIDE, patient_key=KEY).header
    assert found is not None
    return found


def test_the_header_is_kept_without_the_patient() -> None:
    found = header_of(number=3, IssuerOfPatientID="CLINIC")
    assert found.study_uid == f"{dicom_files.ROOT}.1.3"
    assert found.series_uid == f"{dicom_files.ROOT}.2.3"
    assert found.sop_uid == f"{dicom_files.ROOT}.3.3"
    assert (found.accession_number, found.modality, found.view_position) == ("A3", "DX", "AP")
    assert (found.age_years, found.sex) == (3.0, "F")
    assert found.patient_key == hmac.new(KEY, b"CLINIC\0P3", hashlib.sha256).hexdigest()
    assert "DOE" not in repr(found)
    assert "'P3'" not in repr(found)


def test_without_a_secret_the_patient_is_dropped() -> None:
    found = reader.read_image(dicom_files.make_dicom(PIXELS), SIDE).header
    assert found is not None
    assert found.patient_key is None


@pytest.mark.parametrize(
    ("tags", "age"),
    [
        ({"PatientAge": "018M"}, 1.5),
        ({"PatientAge": "026W"}, 0.498),
        ({"PatientAge": "010D"}, 0.027),
        ({"PatientAge": None, "PatientBirthDate": "20200506"}, 4.0),
        ({"PatientAge": None, "PatientBirthDate": "20230506"}, 1.0),  # a birthday
        ({"PatientAge": None, "PatientBirthDate": "20180507"}, 5.997),  # the day before one
        ({"PatientAge": None, "PatientBirthDate": "20200229"}, 4.18),
        ({"PatientAge": "xxxY", "PatientBirthDate": "2020.05.06"}, 4.0),
        ({"PatientAge": None, "PatientBirthDate": "20250101"}, None),  # born after the image
        ({"PatientAge": "900Y"}, None),
        ({"PatientAge": None, "PatientBirthDate": "00000000"}, None),
        ({"PatientAge": None}, None),
    ],
)
def test_the_age_is_that_at_the_study(tags: dict[str, Any], age: float | None) -> None:
    found = header_of(**tags).age_years
    assert found == pytest.approx(age, abs=0.002) if age is not None else found is None


@pytest.mark.filterwarnings("ignore::UserWarning")  # of pydicom, as these are written
def test_broken_values_count_as_missing() -> None:
    found = header_of(
        AccessionNumber=["a", "b"], PatientSex="unknown", StudyInstanceUID="1.2.not a uid", ViewPosition=""
    )
    assert (found.accession_number, found.sex, found.study_uid, found.view_position) == (None, None, None, None)


def test_the_hash_of_the_pixels_does_not_depend_on_header_or_lossless_encoding() -> None:
    values = dicom_images.stored_values(12, False)
    plain = [
        dicom_files.make_dicom(values, bits=12),
        dicom_files.make_dicom(values, bits=12, PatientName="ROE^RICHARD", number=2),
    ]
    packed = [
        dicom_files.make_dicom(values, syntax, 12)
        for syntax in (uid.ExplicitVRBigEndian, uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.RLELossless)
    ]
    hashes = {reader.read_image(data, SIDE).header.pixels_sha256 for data in (*plain, *packed)}  # type: ignore[union-attr]
    assert len(hashes) == 1
    other = values.copy()
    other[0, 0] ^= 1
    assert reader.read_image(dicom_files.make_dicom(other, bits=12), SIDE).header.pixels_sha256 not in hashes  # type: ignore[union-attr]


# other people's objects


@pytest.mark.parametrize(
    "path", sorted(path for path in COLLECTION.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc"))
)
def test_each_object_that_pydicom_brings_along_is_read_or_refused(path: Path) -> None:
    outcome = outcome_of(path.read_bytes())
    assert outcome in {"read", "no_pixels", "not_chest_xray", "unsupported", "unreadable", "empty"}


def outcome_of(data: bytes) -> str:
    try:
        pixels = reader.read_image(data, SIDE, patient_key=KEY).pixels
    except ImageRejected as fault:
        return fault.reason
    return "read" if pixels.shape == (SIDE, SIDE) and pixels.dtype == np.uint8 else "of another shape"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("CT_small.dcm", "not_chest_xray"),
        ("MR_truncated.dcm", "not_chest_xray"),
        ("badVR.dcm", "not_chest_xray"),  # an RT dose
        ("ExplVR_LitEndNoMeta.dcm", "no_pixels"),  # an RT plan
        ("UN_sequence.dcm", "no_pixels"),
        ("dicomdirtests/DICOMDIR", "no_pixels"),
        ("dicomdirtests/77654033/CR1/6154", "not_chest_xray"),  # another part of the body
        ("SC_rgb_rle_2frame.dcm", "unsupported"),
        ("SC_rgb_rle_32bit.dcm", "unsupported"),
    ],
)
def test_reasons_of_some_that_were_looked_at(name: str, reason: str) -> None:
    with pytest.raises(ImageRejected) as caught:
        reader.read_image((COLLECTION / "test_files" / name).read_bytes(), SIDE)
    assert caught.value.reason == reason


def test_nothing_of_a_broken_object_reaches_a_log(caplog: pytest.LogCaptureFixture) -> None:
    data = dicom_files.make_dicom(PIXELS, PatientID="SECRET-4711")
    broken = data.replace(b"003Y", b"\xff\xfe\x00Y").replace(b"20240506", b"SECRET-1")
    with caplog.at_level("DEBUG"):
        reader.read_image(broken, SIDE, patient_key=KEY)
        with pytest.raises(ImageRejected):
            reader.read_image(data[:-100], SIDE, patient_key=KEY)
    assert "SECRET" not in caplog.text
    assert "DOE" not in caplog.text
