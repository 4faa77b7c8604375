"""The overview, as a browser gets it."""

import re
from types import SimpleNamespace

import pytest
from support.classified_scans import add_classified
from support.ledger_driver import LedgerDriver, file_version
from support.review_server import ReviewServer

from db.states import Verdict
from db.worklist import verdicts
from review.templating import jinja_environment


@pytest.fixture
def ledger(review_server: ReviewServer) -> LedgerDriver:
    ledger = LedgerDriver(review_server.database)
    ledger.register_model()
    return ledger


def text(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def test_the_overview(review_server: ReviewServer, ledger: LedgerDriver) -> None:
    flagged = [add_classified(ledger, f"f{number}", 0.9, inbox="ward") for number in range(3)]
    drawn = [add_classified(ledger, f"u{number}", 0.1, share=1.0, inbox="ward") for number in range(2)]
    ledger.add(file_version("waits"))
    for scan_id in (*flagged, *drawn):
        verdict = Verdict.PNEUMONIA if scan_id in flagged else Verdict.NO_PNEUMONIA
        review_server.database.write(lambda c, i=scan_id, v=verdict: verdicts.record_verdict(c, i, v, "ada"))
    review_server.database.write(lambda c: verdicts.record_verdict(c, flagged[0], Verdict.UNSURE, "bert"))
    page = review_server.reader().get("/overview").text
    told = text(page)
    assert re.search(r"wait for a worker 1\b", told)
    assert re.search(r"Sensitivity 100\.0 % \(\d", told)
    assert re.search(r"Specificity 100\.0 % \(\d", told)
    assert "on 1 of them their newest verdicts differ" in told
    assert f'href="/scans/{flagged[0]}"' in page
    names = re.findall(r'role="img" aria-label="([^"]+)"', page)
    assert len(names) == 3
    assert any(name.startswith("Share of them that is flagged") and "60 %" in name for name in names)


def test_what_is_not_measurable_is_said_to_be(review_server: ReviewServer, ledger: LedgerDriver) -> None:
    add_classified(ledger, "1", 0.9)
    for days in (7, 30, 90):
        told = text(review_server.reader().get(f"/overview?days={days}").text)
        assert "Sensitivity not measurable" in told
        assert "No flagged scan of this time has a verdict" in told
    assert review_server.reader().get("/overview?days=8").status_code == 422


def test_components_and_silent_sources() -> None:
    component = SimpleNamespace(
        kind="worker", machine="reading-1", status="stalled", sentence="lives, but reads nothing"
    )
    source = SimpleNamespace(source="ward", status="silent", sentence="no image for 3 h")
    told = text(
        jinja_environment().get_template("components.html").render(components=[component], source_health=[source])
    )
    assert "worker on reading-1 stalled: lives, but reads nothing" in told
    assert "source ward silent: no image for 3 h" in told
    assert jinja_environment().get_template("components.html").render(components=[], source_health=[]).strip() == ""
