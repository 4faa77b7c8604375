"""Films handed in: by form and as a body, within bounds, whole or not at all, and what became of them."""

import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import httpx
import pytest
from books import Book, classified, rejected, seen
from desk import Desk
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


def read(book: Book, scan_id: int, outcome: Outcome) -> None:
    """What a worker does."""
    claim = book.claimed()
    assert [scan.id for scan in claim.scans] == [scan_id]
    book.finish(claim, outcome)


def test_a_film_as_the_body(desk: Desk, book: Book, folder: Path) -> None:
    answer = send(desk.script(), b"a film", "DOE%20J%C3%A9.PNG")
    assert answer.status_code == 202
    (film,) = answer.json()["scans"]
    assert (film["state"], film["done"], film["sentence"]) == ("queued", False, "Waiting to be read.")
    assert answer.headers["location"] == f"/api/scans/{film['scan_id']}"
    (file,) = stored(folder)
    assert file.read_bytes() == b"a film"
    assert file.name.startswith("DOE J\u00e9-")
    row = book.row(film["scan_id"])
    assert (row["inbox"], row["path"], row["size"]) == ("uploads", file.name, 6)
    (act,) = book.database.read(lambda c: audit.list_actions(c, 9, film["scan_id"]))
    assert (act["who"], act["what"]) == ("rita", "upload")


def test_a_script_waits_for_the_result(desk: Desk, book: Book) -> None:
    def work() -> None:
        eventually(book.states)
        (scan_id,) = book.states()
        read(book, scan_id, rejected(scan_id))

    worker = Thread(target=work)
    worker.start()
    answer = send(desk.script(), b"no film", wait=upload.MAX_WAIT_SECONDS)
    worker.join()
    assert answer.status_code == 200
    (film,) = answer.json()["scans"]
    assert (film["state"], film["done"], film["sentence"]) == ("rejected", True, "A sentence.")


def test_files_of_a_form(desk: Desk, book: Book, folder: Path) -> None:
    files = [("image", (f"{number}.png", bytes([number] * 10))) for number in range(3)]
    answer = desk.reader().post("/upload", files=files)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/upload?scan=1&scan=2&scan=3"
    assert [file.read_bytes()[0] for file in stored(folder)] == [0, 1, 2]
    page = desk.reader().get(answer.headers["location"]).text
    assert page.count("Waiting to be read.") == 3


def test_a_form_bears_the_pages_token_in_its_field(desk: Desk, book: Book, folder: Path) -> None:
    reader = desk.reader()
    token = reader.headers.pop("X-CSRF-Token")
    files = {"image": ("a.png", b"film")}
    assert reader.post("/upload", files=files).status_code == 403
    assert reader.post("/upload", files=files, data={"csrf": "0" * 64}).status_code == 403
    assert send(reader, b"film").status_code == 403
    assert stored(folder) == []
    assert reader.post("/upload", files=files, data={"csrf": token}).status_code == 303
    assert len(stored(folder)) == 1


def test_nobody_hands_in_without_signing_in(desk: Desk, folder: Path) -> None:
    visitor = desk.visitor()
    assert send(visitor, b"film").status_code == 401
    assert visitor.post("/api/scans", files={"image": ("a.png", b"film")}).status_code == 401
    assert visitor.get("/upload", headers={"Accept": "text/html"}).status_code == 303
    assert stored(folder) == []


def test_no_file_at_all_is_a_sentence(desk: Desk, folder: Path) -> None:
    reader = desk.reader()
    for answer in (
        reader.post("/upload", files={"image": ("", b"")}, headers={"Accept": "text/html"}),
        reader.post("/api/scans", files={"other": (None, b"text")}),
        reader.post("/api/scans", content=b"", headers={"Content-Type": "multipart/form-data"}),
    ):
        assert answer.status_code == 400, answer.text
    assert stored(folder) == []


def test_an_empty_file_is_registered_for_its_rejection(desk: Desk, book: Book, folder: Path) -> None:
    (film,) = send(desk.script(), b"", "empty.png").json()["scans"]
    assert book.row(film["scan_id"])["size"] == 0
    assert len(stored(folder)) == 1


def chunks(size: int) -> Iterator[bytes]:
    for _ in range(0, size, 2**16):
        yield bytes(2**16)


@pytest.mark.parametrize(
    "size", [MOST + 2**16, MOST + upload.FORM_OVERHEAD_BYTES + 2**16], ids=["the film", "the request"]
)
def test_what_is_too_large_leaves_nothing(desk: Desk, book: Book, folder: Path, size: int) -> None:
    script = desk.script()
    sent = [
        script.post("/api/scans", content=bytes(size), headers=RAW),
        script.post("/api/scans", content=chunks(size), headers=RAW),  # that says no length beforehand
        script.post("/api/scans", files=[("image", ("small.png", b"film")), ("image", ("a.png", bytes(size)))]),
        desk.reader().post("/upload", files={"image": ("a.png", bytes(size))}),
    ]
    assert [answer.status_code for answer in sent] == [413] * 4
    assert stored(folder) == []
    assert book.states() == {}
    assert send(script, b"film").status_code == 202


def test_too_many_files(desk: Desk, book: Book, folder: Path) -> None:
    files = [("image", (f"{number}.png", b"film")) for number in range(upload.MAX_FILES_PER_REQUEST + 1)]
    assert desk.script().post("/api/scans", files=files).status_code in (400, 413)
    assert desk.reader().post("/upload", files=files).status_code in (400, 413)
    assert stored(folder) == []


@pytest.mark.parametrize("name", ["../../lock", "..%2f..%2flock", "/etc/passwd", "%00", "%ff%fe", ".hidden", "a%0ab"])
def test_no_name_leads_anywhere(desk: Desk, folder: Path, name: str) -> None:
    script = desk.script()
    assert send(script, b"film", name).status_code == 202
    assert script.post("/api/scans", files={"image": (name, b"film")}).status_code == 202
    assert len(stored(folder)) == 2
    assert [path.name for path in folder.parent.iterdir()] == ["uploads"]


@pytest.mark.parametrize("form", [False, True], ids=["a body", "a form"])
def test_what_is_cut_off_leaves_nothing(desk: Desk, book: Book, folder: Path, form: bool) -> None:
    kind = "multipart/form-data; boundary=b" if form else "application/octet-stream"
    part = '--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' if form else ""
    head = (
        f"POST /api/scans HTTP/1.1\r\nHost: desk\r\nAuthorization: {desk.script().headers['Authorization']}\r\n"
        f"Content-Type: {kind}\r\nContent-Length: {MOST}\r\n\r\n{part}"
    )
    with socket.create_connection(("127.0.0.1", desk.server.port)) as connection:
        connection.sendall(head.encode() + bytes(MOST - 2**16))
        if not form:  # it is being written
            eventually(lambda: stored(folder))
            assert stored(folder)[0].name.startswith(".")
    eventually(lambda: not stored(folder))
    assert book.states() == {}
    assert send(desk.script(), b"film").status_code == 202


def test_the_same_film_again_shows_its_result(desk: Desk, book: Book) -> None:
    (original,) = book.classify(seen(), sha256="5" * 64, probability=0.875)
    (film,) = send(desk.script(), b"film").json()["scans"]
    read(book, film["scan_id"], classified(film["scan_id"], "5" * 64))
    (found,) = desk.reader().get("/upload/results", params={"scan": film["scan_id"]}).json()["scans"]
    assert (found["state"], found["duplicate_of"], found["flagged"]) == ("duplicate", original, True)
    assert found["sentence"] == f"Flagged: probability 87.5 %. The same image as scan {original}."


def test_a_twin_of_a_film_that_is_read_blind_tells_nothing(desk: Desk, book: Book) -> None:
    (original,) = book.classify(seen(), sha256="5" * 64, probability=0.875)
    book.set(original, hidden_until_verdict=True)
    (film,) = send(desk.script(), b"film").json()["scans"]
    read(book, film["scan_id"], classified(film["scan_id"], "5" * 64))
    (found,) = desk.reader().get("/upload/results", params={"scan": film["scan_id"]}).json()["scans"]
    assert (found["hidden"], found["flagged"], found["probability"]) == (True, None, None)
    assert "87" not in found["sentence"]


def test_results_of_what_is_no_scan(desk: Desk) -> None:
    reader = desk.reader()
    assert reader.get("/upload/results?scan=99").json() == {"scans": []}
    for query in ("scan=0", "scan=a", f"scan={2**63}", "", "&".join(["scan=1"] * 51)):
        assert reader.get(f"/upload/results?{query}").status_code == 422


def test_no_name_stands_in_the_log(
    database: Database, settings: Settings, capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    with Desk(database, settings) as desk:
        send(desk.script(), b"film", "DOE_JANE.png")
        desk.reader().post("/upload", files={"image": ("DOE_JANE.png", b"film")})
    assert len(stored(folder)) == 2
    out, err = capfd.readouterr()
    assert "DOE" not in out + err
