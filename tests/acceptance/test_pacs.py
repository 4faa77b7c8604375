"""An image comes from a PACS, and its result returns into the study: `storescu` -> `storescp` -> `up` -> `storescp`."""

import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from support import dicom_files
from support.programs import RunningCommand, environment, run
from support.requirements import skip_or_fail
from support.services import HOST, free_port
from support.waiting import eventually

from pneumowatch.imaging.phantom import draw_phantom
from pneumowatch.model_folder import shipped_folder

pytestmark = pytest.mark.slow  # a PACS that receives, `up`, and a PACS that takes the result

PATIENT: Final = {
    "SpecificCharacterSet": "ISO_IR 100",
    "PatientName": "Zwiebelfisch^Jürgen",
    "PatientID": "P471108",
    "IssuerOfPatientID": "KLINIK",
    "PatientBirthDate": "20210203",
    "PatientSex": "M",
    "PatientAge": "003Y",
    "AccessionNumber": "A471108",
    "StudyID": "S4711",
    "StudyTime": "101112",
    "StudyDescription": "Thorax",
    "ReferringPhysicianName": "Überweiser^Ada",
}
SECRET: Final = ("Zwiebelfisch", "P471108", "A471108", "20210203", "Überweiser")
REPORT: Final = "1.2.840.10008.5.1.4.1.1.88.33"
CAPTURE: Final = "1.2.840.10008.5.1.4.1.1.7"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def storescp(stack: ExitStack, folder: Path, title: str) -> int:
    """A receiver that writes what it is sent into a folder; its port."""
    folder.mkdir(exist_ok=True)
    port = free_port()
    words = [sys.executable, "-W", "ignore", "-m", "pynetdicom", "storescp", port, "-ba", HOST, "-aet", title]
    process = subprocess.Popen([*map(str, words), "-od", str(folder), "-q"], cwd=folder.parent)
    stack.callback(process.wait)
    stack.callback(process.kill)

    def listens() -> bool:
        with suppress(ConnectionRefusedError), socket.create_connection((HOST, port)):
            return True
        assert process.poll() is None, "it has ended"
        return False

    eventually(listens, every=0.1)
    return port


def storescu(port: int, *files: Path) -> None:
    for file in files:
        words = [sys.executable, "-W", "ignore", "-m", "pynetdicom", "storescu", HOST, str(port), str(file), "-cx"]
        subprocess.run(words, check=True, timeout=60)


def ask(folder: Path, statement: str) -> list[tuple[Any, ...]]:
    try:
        with closing(sqlite3.connect(f"file:{folder}/data/pneumowatch.db?mode=ro", uri=True)) as connection:
            return connection.execute(statement).fetchall()
    except sqlite3.OperationalError:
        return []


def test_its_report_and_its_picture_come_back_into_the_study(tmp_path: Path, stack: ExitStack) -> None:
    pacs = tmp_path / "pacs"
    inbox_port = storescp(stack, tmp_path / "inbox", "PNEUMOWATCH")
    pacs_port = storescp(stack, pacs, "PACS")
    image = tmp_path / "image.dcm"
    image.write_bytes(dicom_files.make_dicom(np.asarray(draw_phantom(3, True, 300, 280), np.uint8), **PATIENT))
    env = environment(settle_seconds=0.5, decoders=1, sweep_seconds=0.2, pacs_url=f"dicom://PACS@{HOST}:{pacs_port}")

    part = stack.enter_context(RunningCommand(("up",), tmp_path, tmp_path / "log", env))
    storescu(inbox_port, image)
    part.wait_until(lambda: ask(tmp_path, "SELECT 1 FROM flagged_cases"))
    part.wait_until(lambda: ask(tmp_path, "SELECT 1 FROM outbox WHERE state = 'sent'"))
    files = {str(pydicom.dcmread(file).SOPClassUID): file for file in pacs.iterdir()}
    assert set(files) == {REPORT, CAPTURE}
    original = pydicom.dcmread(image)
    for file in files.values():
        assert_stands_in_the_study(pydicom.dcmread(file), original)
    ((probability, threshold),) = ask(tmp_path, "SELECT probability, threshold FROM flagged_cases")
    assert_says_the_result(pydicom.dcmread(files[REPORT]), probability, threshold)
    assert_shows_the_image(pydicom.dcmread(files[CAPTURE]), original)

    # a PACS may send on to our inbox whatever it is sent: nothing may come of that
    storescu(inbox_port, *files.values())
    count = "SELECT reason FROM scan_ledger WHERE finished_at IS NOT NULL AND state = 'rejected' ORDER BY reason"
    part.wait_until(lambda: len(ask(tmp_path, count)) == 2)
    assert ask(tmp_path, count) == [("no_pixels",), ("not_chest_xray",)]
    assert len(ask(tmp_path, "SELECT 1 FROM outbox")) == 1

    assert part.terminate() == 0, part.said()
    assert "delivered" in part.said()
    assert_no_patient_is_kept(tmp_path, part.said())
    for file in files.values():
        assert faults(file) == []


def assert_stands_in_the_study(made: Dataset, original: Dataset) -> None:
    for keyword in (*PATIENT, "StudyInstanceUID", "StudyDate"):
        assert made[keyword].value == original[keyword].value, keyword
    assert made.SeriesInstanceUID != original.SeriesInstanceUID
    assert made.SOPInstanceUID != original.SOPInstanceUID
    assert made.SOPInstanceUID.startswith("2.25.")


def said(report: Dataset) -> dict[str, Any]:
    """Return {concept: value} of a report's items at any depth; the last one where a concept is repeated."""
    found: dict[str, Any] = {}
    for item in report.get("ContentSequence", ()):
        name = item.ConceptNameCodeSequence[0].CodeMeaning
        if item.ValueType == "NUM":
            found[name] = float(item.MeasuredValueSequence[0].NumericValue)
        elif item.ValueType == "CODE":
            found[name] = item.ConceptCodeSequence[0].CodeMeaning
        elif item.ValueType == "TEXT":
            found[name] = item.TextValue
        elif item.ValueType == "IMAGE":
            found[name] = item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        found |= said(item)
    return found


def assert_says_the_result(report: Dataset, probability: float, threshold: float) -> None:
    found = said(report)
    assert found["Triage for pneumonia"] == "Flagged for pneumonia"
    assert found["Probability of pneumonia"] == pytest.approx(probability, abs=1e-6)
    assert found["Threshold for flagging"] == pytest.approx(threshold, abs=1e-6)
    assert (found["Algorithm Name"], found["Algorithm Version"]) == ("pneumowatch", shipped_folder().version)
    assert found["Observer Type"] == "Device"
    assert "no medical device" in found["Comment"]
    assert (report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag) == (
        "COMPLETE",
        "UNVERIFIED",
        "PRELIMINARY",
    )
    study = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert study.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == f"{dicom_files.ROOT}.3.1"


def assert_shows_the_image(capture: Dataset, original: Dataset) -> None:
    assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID == original.SOPInstanceUID
    picture = capture.pixel_array
    assert picture.shape == (capture.Rows, capture.Columns, 3)
    height = round(capture.Columns * original.Rows / original.Columns)
    assert height < capture.Rows  # the legend stands beneath
    image, legend = picture[:height], picture[height:]
    small = image[:: height // 70, :: capture.Columns // 75, 2].astype(float)  # blue, where the heat is darkest
    assert small.std() > 10
    assert (image[..., 0] > image[..., 2].astype(int) + 20).any()  # heat
    assert (legend[..., 0] == legend[..., 2]).all()
    assert legend.max() > 250


def assert_no_patient_is_kept(folder: Path, log: str) -> None:
    assert not [word for word in SECRET if word in log]
    for file in (folder / "data").glob("pneumowatch.db*"):
        # the accession number is one of the ledger's columns
        assert not [word for word in SECRET if word.encode() in file.read_bytes() and word != "A471108"]
    ended = run("outbox", "--json", cwd=folder, env=environment())
    assert ended.json["counts"] == {"pacs": {"waiting": 0, "sent": 1, "given_up": 0}}


def faults(file: Path) -> list[str]:
    """Return the errors that the validator of dicom3tools reports."""
    if shutil.which("dciodvfy") is None:
        skip_or_fail("no dciodvfy (Debian: dicom3tools) on PATH")
    checked = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, errors="replace", timeout=60)
    lines = checked.stderr.splitlines()
    assert lines  # it names the kind of object, at least
    return [line for line in lines if line.startswith("Error")]
