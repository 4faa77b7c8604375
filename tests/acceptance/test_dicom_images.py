"""DICOM images through `up`, and the patient key that goes with them, as its users see it."""

import hashlib
import hmac
import sqlite3
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import dicom_files
from support.programs import CompletedCommand, environment, run

from pneumowatch.imaging.phantom import draw_phantom

pytestmark = pytest.mark.slow  # four commands that each load TensorFlow

PLANTED = ("DOE", "JANE", "PX4711ZQ", "19810203", "CURSED")  # of nobody; in headers, and in names of files
IMAGES: dict[str, dict[str, Any]] = {
    "DOE_JANE_1": {"number": 1},
    "DOE_JANE_1_again": {"number": 1, "AccessionNumber": "CURSED"},
    "DOE_JANE_2.dcm": {"number": 2, "PatientAge": "042Y"},
    "DOE_JANE_3.dcm": {"number": 3, "ViewPosition": "LL"},
}


@pytest.fixture(scope="module")
def inbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ward") / "inbox"
    folder.mkdir()
    for name, tags in IMAGES.items():
        pixels = np.asarray(draw_phantom(tags["number"], True, 300, 280), np.uint8)
        planted = {"PatientName": "DOE^JANE", "PatientID": "PX4711ZQ", "PatientBirthDate": "19810203"}
        (folder / name).write_bytes(dicom_files.make_dicom(pixels, **planted, **tags))
    return folder


@pytest.fixture(scope="module")
def first(inbox: Path) -> CompletedCommand:
    return up(inbox)


def up(inbox: Path, **settings: object) -> CompletedCommand:
    return run("up", "--once", "--inbox", inbox, cwd=inbox.parent, env=environment(settle_seconds=0.5, **settings))


def ask(inbox: Path, query: str) -> list[dict[str, Any]]:
    connection = sqlite3.connect(inbox.parent / "data" / "pneumowatch.db")
    connection.row_factory = sqlite3.Row
    try:
        return [dict(row) for row in connection.execute(query)]
    finally:
        connection.close()


def test_each_image_has_its_result_and_what_its_header_says(inbox: Path, first: CompletedCommand) -> None:
    assert first.code == 0, first.err
    rows = {row["path"]: row for row in ask(inbox, "SELECT * FROM scan_ledger")}
    assert set(rows) == set(IMAGES)
    one, again, adult, lateral = (rows[name] for name in IMAGES)
    assert sorted([one["state"], again["state"]]) == ["classified", "duplicate"]
    assert one["probability"] == again["probability"]
    assert (adult["state"], adult["age_years"], adult["caution"]) == ("classified", 42, "age")
    assert (lateral["state"], lateral["reason"]) == ("rejected", "not_frontal")
    assert [row["sop_uid"] for row in (one, adult, lateral)] == [
        f"{dicom_files.ROOT}.3.{number}" for number in (1, 2, 3)
    ]
    assert {row["sex"] for row in rows.values()} == {"F"}


def test_the_patient_is_kept_as_a_hash_under_the_deployments_key(inbox: Path, first: CompletedCommand) -> None:
    file = inbox.parent / "data" / "patient.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    key = bytes.fromhex(file.read_text())
    expected = hmac.new(key, b"\x00PX4711ZQ", hashlib.sha256).hexdigest()
    assert {row["patient_key"] for row in ask(inbox, "SELECT patient_key FROM scan_ledger")} == {expected}
    for path in file.parent.glob("pneumowatch.db*"):
        assert key.hex().encode() not in path.read_bytes()
        assert key not in path.read_bytes()


def test_nothing_of_the_patient_is_said_aloud(inbox: Path, first: CompletedCommand) -> None:
    events = ask(inbox, "SELECT from_state, to_state, by, detail FROM scan_events")
    sentences = ask(inbox, "SELECT reason, detail FROM scan_ledger")
    for said in (first.out, first.err, repr(events), repr(sentences)):
        assert not [word for word in PLANTED if word in said]
    for path in (inbox.parent / "data").glob("pneumowatch.db*"):
        assert not [word for word in ("^JANE", "PX4711ZQ", "19810203") if word.encode() in path.read_bytes()]


def test_the_caution_is_listed(inbox: Path, first: CompletedCommand) -> None:
    adult = ask(inbox, "SELECT flagged FROM scan_ledger WHERE caution = 'age'")
    listed = run("flagged", "--json", cwd=inbox.parent, env=environment()).json
    assert len([row for row in listed if row["caution"] == "age"]) == sum(row["flagged"] for row in adult)
    (row,) = run("classify", "--json", inbox / "DOE_JANE_2.dcm", cwd=inbox.parent, env=environment()).json
    assert (row["state"], row["caution"]) == ("classified", "age")
    rejecting = environment(outside_age="reject")
    (row,) = run("classify", "--json", inbox / "DOE_JANE_2.dcm", cwd=inbox.parent, env=rejecting).json
    assert (row["state"], row["reason"], row["probability"]) == ("rejected", "outside_age", None)


def checked(inbox: Path, **settings: object) -> dict[str, Any]:
    findings = run("doctor", "--json", cwd=inbox.parent, env=environment(**settings)).json
    (found,) = [finding for finding in findings if finding["check"] == "patient key"]
    return found


def test_another_key_stops_it_and_doctor_says_so(inbox: Path, first: CompletedCommand, tmp_path: Path) -> None:
    assert checked(inbox)["status"] == "ok"
    other = tmp_path / "other.key"
    other.write_text("5" * 64)
    ended = up(inbox, patient_key_file=other)
    assert ended.code == 1
    assert "is not the patient key of this database" in ended.err
    assert "5" * 64 not in ended.err
    assert checked(inbox, patient_key_file=other)["status"] == "error"


@pytest.mark.parametrize("part", ["watch", "work", "schedule"])
def test_another_key_stops_every_part(inbox: Path, first: CompletedCommand, tmp_path: Path, part: str) -> None:
    """It stops before it connects to the broker, which is absent here, or loads a model."""
    (tmp_path / "other.key").write_text("5" * 64)
    env = environment(
        inboxes=f"inbox={inbox}", broker_url="redis://127.0.0.1:9/0", patient_key_file=tmp_path / "other.key"
    )
    ended = run(part, cwd=inbox.parent, env=env)
    assert ended.code == 1
    assert "is not the patient key of this database" in ended.err


def test_a_key_that_is_lost_stops_it_and_none_is_made(inbox: Path, first: CompletedCommand, tmp_path: Path) -> None:
    file, kept = inbox.parent / "data" / "patient.key", tmp_path / "kept"
    file.rename(kept)
    try:
        ended = up(inbox)
        assert (ended.code, file.exists()) == (1, False)
        assert "The patient key is missing" in ended.err
        assert checked(inbox)["status"] == "error"
    finally:
        kept.rename(file)
    file.chmod(0o644)  # as a careless restore leaves it
    try:
        assert checked(inbox)["status"] == "info"
    finally:
        file.chmod(0o600)
    assert up(inbox).code == 0
