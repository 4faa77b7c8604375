"""Uploads: by form and as a body, within bounds, stored whole or not at all, and their results."""

import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import httpx
import pytest
from support.ledger_driver import LedgerDriver, classified, file_version, rejected
from support.review_server import ReviewServer
from support.waiting import eventually

from db.ledger.outcomes import Outcome
from db.session import Database
from db.worklist import audit
from pneumowatch.settings import Settings
from review import upload

MOST = 2 * 2**20
RAW = {"Content-Type": "application/octet-stream"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", inboxes={"inbox": tmp_path / "inbox"}, max_bytes=MOST)


@pytest.fixture
def folder(settings: Settings) -> Path:
    return settings.data_dir / "uploads"


def stored(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.exists() else []


def send(client: httpx.Client, data: bytes, name: str = "", **parameters: float) -> httpx.Response:
    headers = RAW | ({upload.FILE_NAME_HEADER: name} if name else {})
    return client.post("/api/scans", content=data, headers=headers, params=parameters)


def read(ledger: LedgerDriver, scan_id: int, outcome: Outcome) -> None:
    """What a worker does."""
    claim = ledger.claimed()
    assert [scan.id for scan in claim.scans] == [scan_id]
    ledger.finish(claim, outcome)


def test_an_image_as_the_body(review_server: ReviewServer, ledger: LedgerDriver, folder: Path) -> None:
    answer = send(review_server.script(), b"an image", "DOE%20J%C3%A9.PNG")
    assert answer.status_code == 202
    (image,) = answer.json()["scans"]
    assert (image["state"], image["done"], image["sentence"]) == ("queued", False, "Waiting to be read.")
    assert answer.headers["location"] == f"/api/scans/{image['scan_id']}"
    (file,) = stored(folder)
    assert file.read_bytes() == b"an image"
    assert file.name.startswith("DOE J\u00e9-")
    row = ledger.row(image["scan_id"])
    assert (row["inbox"], row["path"], row["size"]) == ("uploads", file.name, 8)
    (act,) = ledger.database.read(lambda c: audit.list_actions(c, 9, image["scan_id"]))
    assert (act["who"], act["what"]) == ("rita", "upload")


def test_a_script_waits_for_the_result(review_server: ReviewServer, ledger: LedgerDriver) -> None:
    def work() -> None:
        eventually(ledger.states)
        (scan_id,) = ledger.states()
        read(ledger, scan_id, rejected(scan_id))

    worker = Thread(target=work)
    worker.start()
    answer = send(review_server.script(), b"no image", wait=upload.MAX_WAIT_SECONDS)
    worker.join()
    assert answer.status_code == 200
    (image,) = answer.json()["scans"]
    assert (image["state"], image["done"], image["sentence"]) == ("rejected", True, "A sentence.")


def test_files_of_a_form(review_server: ReviewServer, ledger: LedgerDriver, folder: Path) -> None:
    files = [("image", (f"{number}.png", bytes([number] * 10))) for number in range(3)]
    answer = review_server.reader().post("/upload", files=files)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/upload?scan=1&scan=2&scan=3"
    assert [file.read_bytes()[0] for file in stored(folder)] == [0, 1, 2]
    page = review_server.reader().get(answer.headers["location"]).text
    assert page.count("Waiting to be read.") == 3


def test_a_form_bears_the_pages_token_in_its_field(
    review_server: ReviewServer, ledger: LedgerDriver, folder: Path
) -> None:
    reader = review_server.reader()
    token = reader.headers.pop("X-CSRF-Token")
    files = {"image": ("a.png", b"image")}
    assert reader.post("/upload", files=files).status_code == 403
    assert reader.post("/upload", files=files, data={"csrf": "0" * 64}).status_code == 403
    assert send(reader, b"image").status_code == 403
    assert stored(folder) == []
    assert reader.post("/upload", files=files, data={"csrf": token}).status_code == 303
    assert len(stored(folder)) == 1


def test_nobody_hands_in_without_signing_in(review_server: ReviewServer, folder: Path) -> None:
    visitor = review_server.visitor()
    assert send(visitor, b"image").status_code == 401
    assert visitor.post("/api/scans", files={"image": ("a.png", b"image")}).status_code == 401
    assert visitor.get("/upload", headers={"Accept": "text/html"}).status_code == 303
    assert stored(folder) == []


def test_no_file_at_all_is_a_sentence(review_server: ReviewServer, folder: Path) -> None:
    reader = review_server.reader()
    for answer in (
        reader.post("/upload", files={"image": ("", b"")}, headers={"Accept": "text/html"}),
        reader.post("/api/scans", files={"other": (None, b"text")}),
        reader.post("/api/scans", content=b"", headers={"Content-Type": "multipart/form-data"}),
    ):
        assert answer.status_code == 400, answer.text
    assert stored(folder) == []


def test_an_empty_file_is_registered_for_its_rejection(
    review_server: ReviewServer, ledger: LedgerDriver, folder: Path
) -> None:
    (image,) = send(review_server.script(), b"", "empty.png").json()["scans"]
    assert ledger.row(image["scan_id"])["size"] == 0
    assert len(stored(folder)) == 1


def chunks(size: int) -> Iterator[bytes]:
    for _ in range(0, size, 2**16):
        yield bytes(2**16)


@pytest.mark.parametrize(
    "size", [MOST + 2**16, MOST + upload.FORM_OVERHEAD_BYTES + 2**16], ids=["the image", "the request"]
)
def test_what_is_too_large_leaves_nothing(
    review_server: ReviewServer, ledger: LedgerDriver, folder: Path, size: int
) -> None:
    script = review_server.script()
    sent = [
        script.post("/api/scans", content=bytes(size), headers=RAW),
        script.post("/api/scans", content=chunks(size), headers=RAW),  # that says no length beforehand
        script.post("/api/scans", files=[("image", ("small.png", b"image")), ("image", ("a.png", bytes(size)))]),
        review_server.reader().post("/upload", files={"image": ("a.png", bytes(size))}),
    ]
    assert [answer.status_code for answer in sent] == [413] * 4
    assert stored(folder) == []
    assert ledger.states() == {}
    assert send(script, b"image").status_code == 202


def test_too_many_files(review_server: ReviewServer, ledger: LedgerDriver, folder: Path) -> None:
    files = [("image", (f"{number}.png", b"image")) for number in range(upload.MAX_FILES_PER_REQUEST + 1)]
    assert review_server.script().post("/api/scans", files=files).status_code in (400, 413)
    assert review_server.reader().post("/upload", files=files).status_code in (400, 413)
    assert stored(folder) == []


@pytest.mark.parametrize("name", ["../../lock", "..%2f..%2flock", "/etc/passwd", "%00", "%ff%fe", ".hidden", "a%0ab"])
def test_no_name_leads_anywhere(review_server: ReviewServer, folder: Path, name: str) -> None:
    script = review_server.script()
    assert send(script, b"image", name).status_code == 202
    assert script.post("/api/scans", files={"image": (name, b"image")}).status_code == 202
    assert len(stored(folder)) == 2
    assert [path.name for path in folder.parent.iterdir()] == ["uploads"]


@pytest.mark.parametrize("form", [False, True], ids=["a body", "a form"])
def test_what_is_cut_off_leaves_nothing(
    review_server: ReviewServer, ledger: LedgerDriver, folder: Path, form: bool
) -> None:
    kind = "multipart/form-data; boundary=b" if form else "application/octet-stream"
    part = '--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' if form else ""
    head = (
        "POST /api/scans HTTP/1.1\r\nHost: review\r\n"
        f"Authorization: {review_server.script().headers['Authorization']}\r\n"
        f"Content-Type: {kind}\r\nContent-Length: {MOST}\r\n\r\n{part}"
    )
    with socket.create_connection(("127.0.0.1", review_server.server.port)) as connection:
        connection.sendall(head.encode() + bytes(MOST - 2**16))
        if not form:  # it is being written
            eventually(lambda: stored(folder))
            assert stored(folder)[0].name.startswith(".")
    eventually(lambda: not stored(folder))
    assert ledger.states() == {}
    assert send(review_server.script(), b"image").status_code == 202


def test_the_same_image_again_shows_its_result(review_server: ReviewServer, ledger: LedgerDriver) -> None:
    (original,) = ledger.classify(file_version(), sha256="5" * 64, probability=0.875)
    (image,) = send(review_server.script(), b"image").json()["scans"]
    read(ledger, image["scan_id"], classified(image["scan_id"], "5" * 64))
    (found,) = review_server.reader().get("/upload/results", params={"scan": image["scan_id"]}).json()["scans"]
    assert (found["state"], found["duplicate_of"], found["flagged"]) == ("duplicate", original, True)
    assert found["sentence"] == f"Flagged: probability 87.5 %. The same image as scan {original}."


def test_a_duplicate_of_an_image_that_is_read_blind_tells_nothing(
    review_server: ReviewServer, ledger: LedgerDriver
) -> None:
    (original,) = ledger.classify(file_version(), sha256="5" * 64, probability=0.875)
    ledger.set(original, hidden_until_verdict=True)
    (image,) = send(review_server.script(), b"image").json()["scans"]
    read(ledger, image["scan_id"], classified(image["scan_id"], "5" * 64))
    (found,) = review_server.reader().get("/upload/results", params={"scan": image["scan_id"]}).json()["scans"]
    assert (found["hidden"], found["flagged"], found["probability"]) == (True, None, None)
    assert "87" not in found["sentence"]


def test_results_of_what_is_no_scan(review_server: ReviewServer) -> None:
    reader = review_server.reader()
    assert reader.get("/upload/results?scan=99").json() == {"scans": []}
    for query in ("scan=0", "scan=a", f"scan={2**63}", "", "&".join(["scan=1"] * 51)):
        assert reader.get(f"/upload/results?{query}").status_code == 422


def test_no_name_stands_in_the_log(
    database: Database, settings: Settings, capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    with ReviewServer(database, settings) as review_server:
        send(review_server.script(), b"image", "DOE_JANE.png")
        review_server.reader().post("/upload", files={"image": ("DOE_JANE.png", b"image")})
    assert len(stored(folder)) == 2
    out, err = capfd.readouterr()
    assert "DOE" not in out + err
