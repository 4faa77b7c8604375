"""The worklist and other lists, as a reader's browser gets them."""

import re
import unicodedata

import pytest
from support.classified_scans import add_classified
from support.ledger_driver import LedgerDriver, file_version
from support.review_server import ReviewServer

from db.states import Reason, Verdict
from db.worklist import verdicts

HTML = {"Accept": "text/html"}


@pytest.fixture
def ledger(review_server: ReviewServer) -> LedgerDriver:
    ledger = LedgerDriver(review_server.database)
    ledger.register_model()
    return ledger


def images(page: str) -> list[int]:
    return [int(number) for number in re.findall(r'href="/scans/(\d+)[^"]*" data-row', page)]


def link(page: str, rel: str) -> str:
    return re.findall(rf'href="([^"]*)" rel="{rel}"', page)[0].replace("&amp;", "&")


def test_the_worklist_page_by_page(review_server: ReviewServer, ledger: LedgerDriver) -> None:
    ids = [add_classified(ledger, f"ward/{number}.png", 0.5 + number / 100) for number in range(7)][::-1]
    reader = review_server.reader()
    first = reader.get("/?limit=3").text
    assert "7 scans to read" in re.sub(r"\s+", " ", first)
    second = reader.get(link(first, "next")).text
    third = reader.get(link(second, "next")).text
    assert images(first) + images(second) + images(third) == ids
    assert 'rel="next"' not in third
    assert images(reader.get(link(third, "first")).text) == images(first)


def test_a_line_tells_what_a_reader_needs(review_server: ReviewServer, ledger: LedgerDriver) -> None:
    scan_id = add_classified(ledger, "ward/image <b>.png", 0.875, study="1.2", accession_number="A-17", hours_ago=5)
    add_classified(ledger, "ward/other.png", 0.1, study="1.2")
    ledger.set(scan_id, caution="age")
    page = review_server.reader().get("/").text
    for told in (
        "image &lt;b&gt;.png",
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


def test_nobody_sees_a_list_who_has_not_signed_in(review_server: ReviewServer, ledger: LedgerDriver) -> None:
    add_classified(ledger, "DOE_JOHN.png", 0.9)
    for path in ("/", "/unscored", "/docs"):
        answer = review_server.visitor(**HTML).get(path)
        assert (answer.status_code, answer.headers["location"].split("?")[0]) == (303, "/sign-in")
    answer = review_server.visitor(**HTML).post("/search", data={"q": "DOE"})
    assert "DOE_JOHN" not in answer.text
    assert answer.status_code in (303, 403)


def test_what_is_read_blind_cannot_be_told_apart_in_the_list(review_server: ReviewServer, ledger: LedgerDriver) -> None:
    flagged, sampled = (
        add_classified(ledger, "image.png", p, share=1.0, inbox=box) for box, p in (("a", 0.9), ("b", 0.1))
    )
    reader = review_server.reader()
    for path in ("/", "/?list=flagged", "/?list=all"):
        page = reader.get(path).text
        lines = {int(line[0]): line[1] for line in re.findall(r'href="/scans/(\d+).*?data-row(.*?)</tr>', page, re.S)}
        plain = {scan_id: re.sub(rf"#{scan_id}\b|>[ab]<|<time.*?</time>", "", line) for scan_id, line in lines.items()}
        assert plain[flagged] == plain[sampled]
        assert "after your verdict" in plain[flagged]
    review_server.database.write(lambda c: verdicts.record_verdict(c, sampled, Verdict.NO_PNEUMONIA, "rita"))
    reviewed = reader.get("/?list=all").text
    assert "not flagged" in reviewed
    assert "10 %" in reviewed


def test_filters_in_the_address(review_server: ReviewServer, ledger: LedgerDriver) -> None:
    ward, clinic = add_classified(ledger, "1", 0.9, inbox="ward"), add_classified(ledger, "2", 0.6, inbox="clinic")
    out = ledger.reject(file_version("3"))
    reader = review_server.reader()
    wanted = {
        "/": [ward, clinic],
        "/?source=ward&since=&until=&at_least=": [ward],
        "/?at_most=0.7": [clinic],
        "/?list=all&state=rejected": [out],
        "/?list=all&verdict=pneumonia": [],
        "/?since=2031-01-01": [],
        "/?until=2001-01-01T12:00:00%2B02:00": [],
    }
    assert {path: images(reader.get(path).text) for path in wanted} == wanted
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
def test_an_address_that_means_nothing_is_refused_in_words(
    review_server: ReviewServer, ledger: LedgerDriver, query: str
) -> None:
    answer = review_server.reader().get(f"/?{query}", headers=HTML)
    assert answer.status_code in (400, 422)
    assert "To the worklist" in answer.text


def test_search_by_post_and_never_in_an_address(review_server: ReviewServer, ledger: LedgerDriver) -> None:
    scan_id = add_classified(ledger, "ward/DOE_JOHN.png", 0.9, accession_number="A-17")
    reader = review_server.reader()
    for q in ("A-17", "doe_john"):
        page = reader.post("/search", data={"q": q}).text
        assert images(page) == [scan_id]
        assert not re.findall(rf'(?:href|action|src)="[^"]*{q}', page, re.IGNORECASE)
    umlauts = add_classified(ledger, "ward/MÜLLER_HANS.png", 0.9)
    distinct = add_classified(ledger, unicodedata.normalize("NFD", "ward/MÜLLER_EVA.png"), 0.9)
    for q in ("müller", "MÜLLER", unicodedata.normalize("NFD", "Müller_")):
        assert images(reader.post("/search", data={"q": q}).text) == [distinct, umlauts]
    assert "No scan with this accession number" in reader.post("/search", data={"q": "\0 nobody"}).text
    assert "at least 3 letters" in reader.post("/search", data={"q": "x"}).text
    assert reader.get("/search").status_code == 405
    assert reader.post("/search", data={"q": "x" * 201}, headers=HTML).status_code == 422


def test_what_is_unscored_stands_with_its_reason_and_what_to_do(
    review_server: ReviewServer, ledger: LedgerDriver
) -> None:
    child = ledger.reject(file_version("child.dcm"), Reason.NOT_CHEST_XRAY)
    broken = ledger.reject(file_version("broken.png"), Reason.UNREADABLE)
    reader = review_server.reader()
    page = reader.get("/unscored").text
    assert images(page) == [broken, child]
    assert "something other than a frontal chest x-ray" in page
    assert images(reader.get("/unscored?why=not_chest_xray").text) == [child]
    assert images(reader.get(f"/unscored?before={broken}").text) == [child]
    assert re.search(r"<b>2</b>\s*unscored", reader.get("/").text)


def test_every_reason_says_what_to_do(review_server: ReviewServer, ledger: LedgerDriver) -> None:
    from review.pages.worklist import ADVICE

    assert {*ADVICE} >= {*Reason}


def test_an_empty_worklist(review_server: ReviewServer, ledger: LedgerDriver) -> None:
    reader = review_server.reader()
    assert "Every flagged scan has its verdict" in reader.get("/").text
    assert "No image has arrived yet" in reader.get("/?list=all").text
    assert "Every image that arrived has a result" in reader.get("/unscored").text
    assert "No scan matches" in reader.get("/?source=ward").text


def test_the_api_is_described_on_a_page_of_our_own(review_server: ReviewServer) -> None:
    page = review_server.reader().get("/docs").text
    assert "POST /api/scans/{scan_id}/review" in page
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', page)
