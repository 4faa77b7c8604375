"""Results for a PACS: made from odd headers too, stored over real associations and by HTTP, and each refusal."""

import hashlib
import io
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from support import dicom_files
from support.certificates import make_certificate
from support.services import HOST, free_port

from notify import pacs, secondary_capture, source_instance, structured_report
from notify.pacs import Pacs
from pneumowatch.errors import DeliveryFailed, ImageRejected, SettingsError
from pneumowatch.imaging import image_store, reader
from pneumowatch.imaging.phantom import draw_phantom
from pneumowatch.notification import Notification
from pneumowatch.settings import Settings

AT = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
PIXELS = np.asarray(draw_phantom(3, True, 60, 70), np.uint8)
IMAGE = dicom_files.make_dicom(PIXELS, StudyTime="101112", StudyID="S1", ReferringPhysicianName="REF^ADA")
HEAT = np.linspace(0, 255, 100, dtype=np.uint8).reshape(10, 10)
BOTH = {"1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.7"}
CLASSES = sorted(BOTH)


def notification(data: bytes = IMAGE, **more: Any) -> Notification:
    sha256 = hashlib.sha256(data).hexdigest()
    given = Notification(UUID(int=7), 12, sha256, "ward", 0.91, 0.276, "compact-1", None, AT, AT, (("ward", b"a.dcm"),))
    return replace(given, **more)


def file_of(dataset: Dataset) -> bytes:
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def both(data: bytes = IMAGE, **more: Any) -> list[Dataset]:
    told, found = notification(data, **more), source_instance.parse_source_instance(data)
    with source_instance.pydicom_warnings_ignored():  # as whoever sends them
        return [structured_report.build_report(told, found), secondary_capture.build_capture(told, found, PIXELS, HEAT)]


def test_a_repeat_is_the_same_to_the_last_byte() -> None:
    for one, again in zip(both(), both(), strict=True):
        assert file_of(one) == file_of(again)
    first, other = both(), both(scan_id=13)
    uids = {made[keyword].value for made in (*first, *other) for keyword in ("SOPInstanceUID", "SeriesInstanceUID")}
    assert len(uids) == 8
    assert all(uid.UID(one).is_valid for one in uids)


def test_names_in_any_script_go_on_as_they_came() -> None:
    names = [
        ("ISO_IR 100", "Zwiebelfisch^Jürgen".encode("latin-1")),
        ("ISO_IR 192", "王^小東".encode()),
        ("\\ISO 2022 IR 87", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"),
        (None, b"Doe^J\xfcrgen"),  # says no character set, and uses one
    ]
    for characters, name in names:
        placeholder = "X" * len(name)
        data = dicom_files.make_dicom(PIXELS, PatientName=placeholder, SpecificCharacterSet=characters)
        data = data.replace(placeholder.encode(), name)
        for made in both(data):
            assert name in file_of(made)
            read = pydicom.dcmread(io.BytesIO(file_of(made)))
            assert read.get("SpecificCharacterSet") == pydicom.dcmread(io.BytesIO(data)).get("SpecificCharacterSet")


@pytest.mark.parametrize(
    "tags",
    [
        {"PatientBirthDate": "unknown", "PatientSex": "male", "StudyDate": "2024", "PatientAge": "3"},
        dict.fromkeys(("PatientID", "PatientName", "PatientSex", "StudyDate", "AccessionNumber", "PatientAge")),
        {"PatientName": "A^B=C^D=E^F", "PatientID": "x" * 70},
    ],
)
def test_odd_and_missing_values_go_on_as_they_are(tags: dict[str, Any]) -> None:
    data = dicom_files.make_dicom(PIXELS, **tags)
    with source_instance.pydicom_warnings_ignored():
        before = pydicom.dcmread(io.BytesIO(data))
        for made in both(data):
            after = pydicom.dcmread(io.BytesIO(file_of(made)))
            for keyword in source_instance.TYPE_2_KEYWORDS:
                assert str(after[keyword].value or "") == str(before.get(keyword) or ""), keyword


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.JPEG2000Lossless])
def test_whatever_the_image_was_encoded_in(syntax: str) -> None:
    for made in both(dicom_files.make_dicom(PIXELS, syntax)):
        read = pydicom.dcmread(io.BytesIO(file_of(made)))
        assert (read.PatientName, read.file_meta.TransferSyntaxUID) == ("DOE^JANE", uid.ExplicitVRLittleEndian)


def test_cautions_are_said_in_both() -> None:
    plain, cautious = both(), both(caution="age")
    assert structured_report.AGE_REMARK in file_of(cautious[0]).decode("latin-1")
    assert structured_report.AGE_REMARK not in file_of(plain[0]).decode("latin-1")
    assert cautious[1].Rows > plain[1].Rows


def test_the_picture_has_the_images_own_aspect() -> None:
    assert secondary_capture.capture_size(3000, 2000) == (1024, 683)
    assert secondary_capture.capture_size(100, 200) == (512, 1024)
    assert secondary_capture.capture_size(10, 4000) == (secondary_capture.MIN_EDGE, 1024)


def test_what_was_made_here_is_not_read_again() -> None:
    for made, reason in zip(both(), ("no_pixels", "not_chest_xray"), strict=True):
        with pytest.raises(ImageRejected) as caught:
            reader.read_image(file_of(made), 64)
        assert caught.value.reason == reason


def test_an_image_without_uids_has_no_study_to_go_to() -> None:
    with pytest.raises(DeliveryFailed) as caught:
        source_instance.parse_source_instance(dicom_files.make_dicom(PIXELS, StudyInstanceUID=None))
    assert (caught.value.kind, caught.value.permanent) == ("image_without_uids", True)


# where the image is


@pytest.fixture
def ward(tmp_path: Path) -> Path:
    folder = tmp_path / "ward"
    folder.mkdir()
    (folder / "a.dcm").write_bytes(IMAGE)
    return folder


def found(inboxes: dict[str, Path], **more: Any) -> str:
    """Return the study that it was found in, or why it was not found."""
    try:
        return source_instance.find_source_instance(notification(**more), inboxes, 2**20).study
    except DeliveryFailed as failure:
        return failure.kind + " elsewhere" * failure.unavailable


def test_it_is_found_where_its_bytes_stand(ward: Path) -> None:
    study = f"{dicom_files.ROOT}.1.1"
    assert found({"ward": ward}) == study
    (ward / "a.dcm").rename(ward / "b.dcm")
    assert found({"ward": ward}) == "image_gone"
    assert found({"ward": ward}, copies=(("ward", b"a.dcm"), ("ward", b"b.dcm"))) == study  # a duplicate's place
    # another patient's image under the same name
    (ward / "b.dcm").write_bytes(dicom_files.make_dicom(PIXELS, number=2))
    assert found({"ward": ward}, copies=(("ward", b"b.dcm"),)) == "image_gone"


def test_a_share_that_is_away_is_no_image_that_is_gone(ward: Path) -> None:
    assert found({}) == "share_away"
    ward.rename(ward.parent / "elsewhere")
    assert found({"ward": ward}) == "share_away"


# stored over an association


@contextmanager
def storing(
    answer: Callable[[Any], int] = lambda _: 0, classes: list[str] = CLASSES, title: str = "PACS", tls: Any = None
) -> Iterator[tuple[str, list[Dataset]]]:
    """Run a PACS; yield its address and what it was sent."""
    stored: list[Dataset] = []

    def store(event: Any) -> int:
        stored.append(event.dataset)
        return answer(event)

    entity = AE(title)
    entity.require_called_aet = True
    for one in classes:
        entity.add_supported_context(one, [uid.ImplicitVRLittleEndian])
    port = free_port()
    server = entity.start_server((HOST, port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)], ssl_context=tls)
    try:
        yield f"PACS@{HOST}:{port}", stored
    finally:
        server.shutdown()


def channel(ward: Path, url: str, **more: Any) -> Pacs:
    data_dir = ward.parent / "data"
    if not image_store.image_path(data_dir, notification().sha256).exists():
        image_store.store_image(data_dir, notification().sha256, PIXELS, np.zeros((10, 10), np.float32))
    return Pacs(Settings(**{"pacs_url": url, "data_dir": data_dir, "send_seconds": 30, **more}), {"ward": ward})


def failure(channel: Pacs) -> DeliveryFailed:
    with pytest.raises(DeliveryFailed) as caught:
        channel.deliver([notification()])
    return caught.value


def test_both_are_stored_in_what_every_pacs_knows(ward: Path) -> None:
    with storing() as (address, stored):
        channel(ward, f"dicom://{address}").deliver([notification()])
    assert {one.SOPClassUID for one in stored} == BOTH
    assert [one.PatientName for one in stored] == ["DOE^JANE"] * 2


def test_the_report_alone_where_no_map_is_kept(ward: Path) -> None:
    with storing() as (address, stored):
        sender = channel(ward, f"dicom://{address}")
        image_store.store_image(ward.parent / "data", notification().sha256, PIXELS)
        sender.deliver([notification()])
    assert [one.Modality for one in stored] == ["SR"]


@pytest.mark.parametrize("status", [0xB000, 0xB007, 0x0111])
def test_stored_with_a_warning_or_before_is_stored(ward: Path, status: int) -> None:
    with storing(lambda _: status) as (address, stored):
        channel(ward, f"dicom://{address}").deliver([notification()])
    assert len(stored) == 2


@pytest.mark.parametrize(
    ("status", "kind", "away"),
    [
        (0xA700, "pacs_a700", True),
        (0xA900, "pacs_a900", False),
        (0xC000, "pacs_c000", False),
        (0x0124, "pacs_0124", False),
    ],
)
def test_a_refusal_is_tried_again(ward: Path, status: int, kind: str, away: bool) -> None:
    with storing(lambda _: status) as (address, _):
        refused = failure(channel(ward, f"dicom://{address}"))
    assert (refused.kind, refused.unavailable, refused.permanent) == (kind, away, False)


def test_a_pacs_that_knows_no_reports(ward: Path) -> None:
    with storing(classes=CLASSES[:1]) as (address, _):
        assert failure(channel(ward, f"dicom://{address}")).kind == "pacs_refuses_class"


def test_a_pacs_that_does_not_know_us(ward: Path) -> None:
    with storing(title="OTHER") as (address, _):
        assert failure(channel(ward, f"dicom://{address}")).kind == "pacs_rejects_us"


@pytest.mark.filterwarnings("ignore:.*unclosed <socket:pytest.PytestUnraisableExceptionWarning")  # pynetdicom's
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_a_pacs_that_is_not_there(ward: Path) -> None:
    away = failure(channel(ward, f"dicom://PACS@{HOST}:{free_port()}"))
    assert (away.kind, away.unavailable) == ("pacs_unreachable", True)


def test_a_pacs_that_hangs_is_left_after_the_bound(ward: Path) -> None:
    release = threading.Event()
    with storing(lambda _: int(not release.wait(30))) as (address, _):
        # long enough for a busy machine to reach it, which the bound holds for too
        assert failure(channel(ward, f"dicom://{address}", send_seconds=5)).kind == "timeout"
        release.set()


def test_in_tls_with_a_certificate_that_is_trusted(ward: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pem = make_certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=pem)
    context.load_cert_chain(pem)
    context.verify_mode = ssl.CERT_REQUIRED  # ours, too
    with storing(tls=context) as (address, stored):
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        channel(ward, f"dicoms://{address}", pacs_cert_file=pem).deliver([notification()])
    assert len(stored) == 2


# stored by HTTP


@contextmanager
def stow(status: int, answer: Any) -> Iterator[tuple[str, list[tuple[str, dict[str, str], bytes]]]]:
    requests: list[tuple[str, dict[str, str], bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            said = json.dumps(answer).encode() if answer is not None else b""
            self.send_response(status)
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer((HOST, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://{HOST}:{server.server_port}/dicom-web", requests
        server.shutdown()
        thread.join()


def failed(*reasons: int) -> dict[str, Any]:
    return {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [reason]}} for reason in reasons]}}


def test_by_stow_in_parts_and_without_the_study_in_the_url(ward: Path) -> None:
    with stow(200, {"00081199": {"vr": "SQ", "Value": []}}) as (url, requests):
        channel(ward, url, pacs_token="t0ken").deliver([notification()])
    ((path, headers, body),) = requests
    assert (path, headers["authorization"]) == ("/dicom-web/studies", "Bearer t0ken")
    assert headers["content-type"].startswith('multipart/related; type="application/dicom"; boundary=')
    boundary = headers["content-type"].rpartition("=")[2].encode()
    first, *parts, last = body.split(b"--" + boundary)
    assert (first, last) == (b"", b"--\r\n")
    files = [part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for part in parts]
    assert {pydicom.dcmread(io.BytesIO(file)).SOPClassUID for file in files} == BOTH


@pytest.mark.parametrize(("status", "answer"), [(200, None), (202, failed(0x0111)), (409, failed(0x0111, 0x0111))])
def test_by_stow_what_is_there_already_is_stored(ward: Path, status: int, answer: Any) -> None:
    with stow(status, answer) as (url, _):
        channel(ward, url).deliver([notification()])


@pytest.mark.parametrize(
    ("status", "answer", "kind"),
    [
        (202, failed(0x0111, 0x0122), "stow_0122"),
        (409, failed(0xA700), "stow_a700"),
        (409, None, "http_409"),
        (401, None, "http_401"),
        (503, None, "http_503"),
    ],
)
def test_by_stow_refusals(ward: Path, status: int, answer: Any, kind: str) -> None:
    with stow(status, answer) as (url, _):
        assert failure(channel(ward, url)).kind == kind


# settings


@pytest.mark.parametrize(
    "url",
    ["dicom://host:104", "dicom://PACS@host", "dicom://PACS@host:x", "ftp://host/", "dicom://SEVENTEEN-LETTERS@h:1"],
)
def test_an_address_that_cannot_be_used(ward: Path, url: str) -> None:
    with pytest.raises(SettingsError, match="PNEUMOWATCH_PACS_URL"):
        channel(ward, url)


def test_a_certificate_that_cannot_be_read(ward: Path) -> None:
    with pytest.raises(SettingsError, match="PNEUMOWATCH_PACS_CERT_FILE"):
        channel(ward, "dicoms://PACS@host:2762", pacs_cert_file=ward / "a.dcm")


def test_without_the_extra_it_says_what_to_install(ward: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacs, "REQUIRED_PACKAGES", ("highdicom", "no_such_package"))
    with pytest.raises(SettingsError, match=r"no_such_package is not installed: pip install 'pneumowatch\[pacs\]'"):
        channel(ward, "dicom://PACS@host:104")
