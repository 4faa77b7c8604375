"""The pages of lists, as a reader's browser gets them."""

import re
import unicodedata

import pytest
from books import Book, seen
from desk import Desk
from readings import read

from db.states import Reason, Verdict
from db.worklist import verdicts

HTML = {"Accept": "text/html"}


@pytest.fixture
def book(desk: Desk) -> Book:
    book = Book(desk.database)
    book.register_model()
    return book


def films(page: str) -> list[int]:
    return [int(number) for number in re.findall(r'href="/scans/(\d+)[^"]*" data-row', page)]


def link(page: str, rel: str) -> str:
    return re.findall(rf'href="([^"]*)" rel="{rel}"', page)[0].replace("&amp;", "&")


def test_the_worklist_page_by_page(desk: Desk, book: Book) -> None:
    ids = [read(book, f"ward/{number}.png", 0.5 + number / 100) for number in range(7)][::-1]
    reader = desk.reader()
    first = reader.get("/?limit=3").text
    assert "7 scans to read" in re.sub(r"\s+", " ", first)
    second = reader.get(link(first, "next")).text
    third = reader.get(link(second, "next")).text
    assert films(first) + films(second) + films(third) == ids
    assert 'rel="next"' not in third
    assert films(reader.get(link(third, "first")).text) == films(first)


def test_a_line_tells_what_a_reader_needs(desk: Desk, book: Book) -> None:
    scan_id = read(book, "ward/film <b>.png", 0.875, study="1.2", accession_number="A-17", hours_ago=5)
    read(book, "ward/other.png", 0.1, study="1.2")
    book.set(scan_id, caution="age")
    page = desk.reader().get("/").text
    for told in (
        "film &lt;b&gt;.png",
        "A-17",
        "2 images",
        "flagged",
        "88 %",
        "age",
        "5 h",
        "waits too long",
        f"#{scan_id}",
    ):
        assert told in page
    assert "<b>.png" not in page
    assert "1</strong> waits longer than 4 h" in page


def test_nobody_sees_a_list_who_has_not_signed_in(desk: Desk, book: Book) -> None:
    read(book, "DOE_JOHN.png", 0.9)
    for path in ("/", "/unscored", "/docs"):
        answer = desk.visitor(**HTML).get(path)
        assert (answer.status_code, answer.headers["location"].split("?")[0]) == (303, "/sign-in")
    answer = desk.visitor(**HTML).post("/search", data={"q": "DOE"})
    assert "DOE_JOHN" not in answer.text
    assert answer.status_code in (303, 403)


def test_what_is_read_blind_cannot_be_told_apart_in_the_list(desk: Desk, book: Book) -> None:
    flagged, sampled = (read(book, "film.png", p, share=1.0, inbox=box) for box, p in (("a", 0.9), ("b", 0.1)))
    reader = desk.reader()
    for path in ("/", "/?list=flagged", "/?list=all"):
        page = reader.get(path).text
        lines = {int(line[0]): line[1] for line in re.findall(r'href="/scans/(\d+).*?data-row(.*?)</tr>', page, re.S)}
        plain = {scan_id: re.sub(rf"#{scan_id}\b|>[ab]<|<time.*?</time>", "", line) for scan_id, line in lines.items()}
        assert plain[flagged] == plain[sampled]
        assert "after your verdict" in plain[flagged]
    desk.database.write(lambda c: verdicts.record_verdict(c, sampled, Verdict.NO_PNEUMONIA, "rita"))
    judged = reader.get("/?list=all").text
    assert "not flagged" in judged
    assert "10 %" in judged


def test_filters_in_the_address(desk: Desk, book: Book) -> None:
    ward, clinic = read(book, "1", 0.9, inbox="ward"), read(book, "2", 0.6, inbox="clinic")
    out = book.reject(seen("3"))
    reader = desk.reader()
    wanted = {
        "/": [ward, clinic],
        "/?source=ward&since=&until=&at_least=": [ward],
        "/?at_most=0.7": [clinic],
        "/?list=all&state=rejected": [out],
        "/?list=all&verdict=pneumonia": [],
        "/?since=2031-01-01": [],
        "/?until=2001-01-01T12:00:00%2B02:00": [],
    }
    assert {path: films(reader.get(path).text) for path in wanted} == wanted
    page = reader.get("/?source=ward").text
    assert f'href="/scans/{ward}?source=ward"' in page
    assert "/api/scans.csv?source=ward&amp;list=to_read" in page


@pytest.mark.parametrize(
    "query",
    [
        "source=%00", "source=../x", "since=yesterday", "since=9999-12-31", "until=0001-01-01", "at_least=2",
        "at_most=nan", "list=x", "state=lost", "limit=0", "limit=100000", "after=x", "after=r1-1", "verdict=%FF",
    ],
)  # fmt: skip
def test_an_address_that_means_nothing_is_refused_in_words(desk: Desk, book: Book, query: str) -> None:
    answer = desk.reader().get(f"/?{query}", headers=HTML)
    assert answer.status_code in (400, 422)
    assert "To the worklist" in answer.text


def test_search_by_post_and_never_in_an_address(desk: Desk, book: Book) -> None:
    scan_id = read(book, "ward/DOE_JOHN.png", 0.9, accession_number="A-17")
    reader = desk.reader()
    for q in ("A-17", "doe_john"):
        page = reader.post("/search", data={"q": q}).text
        assert films(page) == [scan_id]
        assert not re.findall(rf'(?:href|action|src)="[^"]*{q}', page, re.IGNORECASE)
    umlauts = read(book, "ward/MÜLLER_HANS.png", 0.9)
    apart = read(book, unicodedata.normalize("NFD", "ward/MÜLLER_EVA.png"), 0.9)
    for q in ("müller", "MÜLLER", unicodedata.normalize("NFD", "Müller_")):
        assert films(reader.post("/search", data={"q": q}).text) == [apart, umlauts]
    assert "No scan with this accession number" in reader.post("/search", data={"q": "\0 nobody"}).text
    assert "at least 3 letters" in reader.post("/search", data={"q": "x"}).text
    assert reader.get("/search").status_code == 405
    assert reader.post("/search", data={"q": "x" * 201}, headers=HTML).status_code == 422


def test_what_is_unscored_stands_with_its_reason_and_what_to_do(desk: Desk, book: Book) -> None:
    child = book.reject(seen("child.dcm"), Reason.NOT_CHEST_XRAY)
    broken = book.reject(seen("broken.png"), Reason.UNREADABLE)
    reader = desk.reader()
    page = reader.get("/unscored").text
    assert films(page) == [broken, child]
    assert "something other than a frontal chest x-ray" in page
    assert films(reader.get("/unscored?why=not_chest_xray").text) == [child]
    assert films(reader.get(f"/unscored?before={broken}").text) == [child]
    assert re.search(r"<b>2</b>\s*unscored", reader.get("/").text)


def test_every_reason_says_what_to_do(desk: Desk, book: Book) -> None:
    from review.pages.worklist import ADVICE

    assert {*ADVICE} >= {*Reason}


def test_an_empty_desk(desk: Desk, book: Book) -> None:
    reader = desk.reader()
    assert "Every flagged scan has its verdict" in reader.get("/").text
    assert "No image has arrived yet" in reader.get("/?list=all").text
    assert "Every image that arrived has a result" in reader.get("/unscored").text
    assert "No scan matches" in reader.get("/?source=ward").text


def test_the_api_is_described_on_a_page_of_our_own(desk: Desk) -> None:
    page = desk.reader().get("/docs").text
    assert "POST /api/scans/{scan_id}/review" in page
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', page)
