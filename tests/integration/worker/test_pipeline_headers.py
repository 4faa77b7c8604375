"""DICOM headers in the pipeline: what is stored of them, and what is not."""

import hashlib
import hmac
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import select, text
from support import dicom_files
from support.worker_harness import IMAGES, KEY, WorkerHarness

from db.models import ScanEvent
from db.states import State
from worker import decode
from worker.decision import AgeRule


def send(harness: WorkerHarness, number: int, name: str, image: int = 0, **tags: Any) -> int:
    """Put a DICOM image (instance `number`, a phantom's pixels) into the inbox, announce it, return its id."""
    with Image.open(harness.inbox / IMAGES[image]) as picture:
        pixels = np.asarray(picture.convert("L"))
    path = harness.inbox / name
    path.write_bytes(dicom_files.make_dicom(pixels, number=number, **tags))
    (scan_id,) = harness.announce(name)
    return scan_id


def test_what_a_dicom_header_says_stands_in_the_row(harness: WorkerHarness) -> None:
    scan_id = send(harness, 7, "image", PatientAge="004Y", PatientID="4711", IssuerOfPatientID="WARD")
    (plain,) = harness.announce(IMAGES[0])
    harness.read()
    scan, other = harness.scan(scan_id), harness.scan(plain)
    assert scan.state == State.CLASSIFIED
    assert (scan.study_uid, scan.series_uid, scan.sop_uid) == tuple(
        f"{dicom_files.ROOT}.{level}.7" for level in (1, 2, 3)
    )
    assert (scan.accession_number, scan.modality, scan.view_position) == ("A7", "DX", "AP")
    assert (scan.age_years, scan.sex, scan.caution) == (4, "F", None)
    assert scan.patient_key == hmac.new(KEY, b"WARD\x004711", hashlib.sha256).hexdigest()
    assert (other.sop_uid, other.modality, other.patient_key) == (None, None, None)


def test_an_image_sent_again_under_another_header_is_a_duplicate(harness: WorkerHarness) -> None:
    first = send(harness, 1, "first")
    harness.read()
    corrected = send(harness, 1, "corrected", AccessionNumber="CORRECTED")
    compressed = send(harness, 1, "compressed", syntax="1.2.840.10008.1.2.5")
    other_instance, other_pixels = send(harness, 2, "instance"), send(harness, 1, "pixels", image=1)
    harness.read()
    for scan_id in (corrected, compressed):
        assert (harness.scan(scan_id).state, harness.scan(scan_id).duplicate_of) == (State.DUPLICATE, first)
    assert harness.scan(corrected).accession_number == "CORRECTED"
    assert {harness.scan(scan_id).state for scan_id in (first, other_instance, other_pixels)} == {State.CLASSIFIED}


def test_an_image_of_an_age_that_the_model_does_not_know_bears_a_caution(harness: WorkerHarness) -> None:
    ids = [
        send(harness, n, f"{age}", n, PatientAge=age) for n, age in enumerate(["042Y", "006Y", "005Y", "011M", None])
    ]
    harness.read()
    assert [harness.scan(scan_id).caution for scan_id in ids] == ["age", "age", None, "age", None]
    assert {harness.scan(scan_id).state for scan_id in ids} == {State.CLASSIFIED}
    shown = harness.database.read(
        lambda c: c.execute(text("SELECT caution FROM scan_ledger ORDER BY scan_id")).scalars()
    )
    assert list(shown) == ["age", "age", None, "age", None]


def test_an_image_of_an_age_that_the_model_does_not_know_is_rejected_where_that_is_set(
    harness: WorkerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness.serving, "age_rule", AgeRule((1, 5), reject=True))
    adult, child = send(harness, 1, "adult", PatientAge="042Y"), send(harness, 2, "child", 1)
    harness.read_when_due()
    scan = harness.scan(adult)
    assert (scan.state, scan.reason, scan.probability) == (State.REJECTED, "outside_age", None)
    assert (scan.age_years, scan.sop_uid) == (42, f"{dicom_files.ROOT}.3.1")  # so that its study can be found
    assert harness.scan(child).state == State.CLASSIFIED


def test_a_rejected_image_can_be_found_by_its_study(harness: WorkerHarness) -> None:
    scan_id = send(harness, 3, "lateral", ViewPosition="LL")
    harness.read_when_due()
    scan = harness.scan(scan_id)
    assert (scan.state, scan.reason) == (State.REJECTED, "not_frontal")
    assert (scan.study_uid, scan.accession_number, scan.view_position) == (f"{dicom_files.ROOT}.1.3", "A3", "LL")
    (listed,) = harness.database.read(lambda c: c.execute(text("SELECT study_uid FROM unscored_cases")).scalars().all())
    assert listed == scan.study_uid


def test_no_header_in_events_and_no_key_where_others_can_see_it(harness: WorkerHarness) -> None:
    send(harness, 1, "image", PatientID="4711", PatientName="DOE^JANE", PatientBirthDate="20200102", PatientAge="042Y")
    harness.read()
    rows = harness.database.read(lambda c: c.execute(select(ScanEvent.__table__)).all())
    told = repr(rows)
    for secret in ("4711", "DOE", "20200102", dicom_files.ROOT, "A1'", "42.0"):
        assert secret not in told
    everything = repr(harness.scans())
    for secret in ("4711", "DOE", "20200102"):
        assert secret not in everything
    children = [child.pid for child in multiprocessing.active_children()]
    assert children
    for pid in children:
        for part in ("cmdline", "environ"):
            seen = Path(f"/proc/{pid}/{part}").read_bytes()
            assert KEY not in seen
            assert KEY.hex().encode() not in seen
    assert KEY.hex() not in repr(decode.DecodeRequest(1, harness.inbox, b"image", KEY))
    assert repr(KEY) not in repr(decode.DecodeRequest(1, harness.inbox, b"image", KEY))


# another model is swapped in
