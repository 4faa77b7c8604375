"""The API: what a script gets, what it may not see, and which of two concurrent verdicts wins."""

import csv
import io
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from support.classified_scans import add_classified
from support.ledger_driver import LedgerDriver, file_version, run_concurrently
from support.review_server import ReviewServer

from db.states import Reason
from db.worklist import audit
from db.worklist.accounts import Role
from review.api.csv_export import csv_cell


@pytest.fixture
def ledger(review_server: ReviewServer) -> LedgerDriver:
    ledger = LedgerDriver(review_server.database)
    ledger.register_model()
    return ledger


def ids(answer: httpx.Response) -> list[int]:
    assert answer.status_code == 200, answer.text
    return [one["scan_id"] for one in answer.json()["scans"]]


def walked(client: httpx.Client, path: str, **asked: str) -> list[int]:
    found: list[int] = []
    after: dict[str, Any] = {}
    while True:
        answer = client.get(path, params={"limit": 2, **asked, **after})
        found += ids(answer)
        if answer.json()["next"] is None:
            return found
        after = {"before" if "unscored" in path else "after": answer.json()["next"]}


def test_lists(review_server: ReviewServer, ledger: LedgerDriver) -> None:
    scans = [add_classified(ledger, str(number), number / 10) for number in range(1, 10)]
    out = [ledger.reject(file_version("a")), ledger.reject(file_version("b"), Reason.NOT_CHEST_XRAY)]
    script = review_server.script()
    assert walked(script, "/api/scans") == [*out[::-1], *scans[::-1]]
    assert walked(script, "/api/scans", list="to_read") == walked(script, "/api/flagged") == scans[:3:-1]
    assert walked(script, "/api/unscored") == out[::-1]
    page = script.get("/api/scans", params={"limit": 2}).json()
    assert (page["count"], page["more"]) == (11, False)
    line = script.get("/api/flagged").json()["scans"][0]
    assert (line["probability"], line["flagged"], line["state"], line["path"]) == (0.9, True, "classified", "9")
    assert datetime.fromisoformat(line["received_at"]).tzinfo is not None
    groups = script.get("/api/unscored").json()["groups"]
    assert {group["why"]: group["number"] for group in groups} == {"unreadable": 1, "not_chest_xray": 1}


def test_a_scan_with_all_that_is_known_of_it(review_server: ReviewServer, ledger: LedgerDriver) -> None:
    scan_id = add_classified(ledger, "1", 0.9)
    script = review_server.script()
    scan = script.get(f"/api/scans/{scan_id}").json()
    assert [one["probability"] for one in scan["predictions"]] == [0.9]
    assert {event["to_state"] for event in scan["events"]} == {"queued", "running", "classified"}
    assert (scan["reviews"], scan["latest_review"]) == ([], 0)
    missing = script.get("/api/scans/4711")
    assert (missing.status_code, missing.headers["content-type"]) == (404, "application/problem+json")
    assert missing.json()["detail"] == "There is no scan 4711."


@pytest.mark.parametrize(
    "path", ["/api/scans", "/api/flagged", "/api/unscored", "/api/scans/1", "/api/changes?since=0-0"]
)
def test_an_etag_saves_the_answer_while_nothing_changes(
    review_server: ReviewServer, ledger: LedgerDriver, path: str
) -> None:
    add_classified(ledger, "1", 0.9)
    script = review_server.script()
    tag = script.get(path).headers["etag"]
    same = script.get(path, headers={"If-None-Match": tag})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    assert script.get(path, headers={"If-None-Match": f'"x", W/{tag}'}).status_code == 304
    script.post("/api/scans/1/review", json={"verdict": "unsure"})
    ledger.reject(file_version("2"))
    assert script.get(path, headers={"If-None-Match": tag}).status_code == 200


@pytest.mark.parametrize("moment", ["", "1", "1-", "-1", "a-b", f"{2**63}-0", f"0-{10**25}", "٣-٣"])
def test_news_since_no_moment(review_server: ReviewServer, moment: str) -> None:
    assert review_server.script().get("/api/changes", params={"since": moment}).status_code in (400, 422)


def test_a_verdict(review_server: ReviewServer, ledger: LedgerDriver) -> None:
    scan_id = add_classified(ledger, "1", 0.9)
    script = review_server.script("ada")
    answer = script.post(f"/api/scans/{scan_id}/review", json={"verdict": "pneumonia", "comment": " left\0 base "})
    assert (answer.status_code, answer.json()["scan_id"]) == (201, scan_id)
    scan = script.get(f"/api/scans/{scan_id}").json()
    (review,) = scan["reviews"]
    assert (scan["verdict"], scan["reviewer"], scan["latest_review"]) == ("pneumonia", "ada", review["review_id"])
    assert review["comment"] == "left base"
    assert review["prediction_id"] == scan["predictions"][0]["prediction_id"]
    again = script.post(f"/api/scans/{scan_id}/review", json={"verdict": "pneumonia", "comment": "left base"})
    assert again.json()["review_id"] == review["review_id"]
    (row,) = {
        (one["who"], one["what"], one["scan_id"])
        for one in review_server.database.read(lambda c: audit.list_actions(c, 9))
    }
    assert row == ("ada", "verdict", scan_id)


def test_of_two_readers_who_saw_the_same_one_comes_first(review_server: ReviewServer, ledger: LedgerDriver) -> None:
    scan_id = add_classified(ledger, "1", 0.9)
    readers = [review_server.script(name) for name in ("ada", "bert", "cleo")]

    def say(reader: httpx.Client) -> httpx.Response:
        return reader.post(f"/api/scans/{scan_id}/review", json={"verdict": "unsure", "expected_latest": 0})

    answers = run_concurrently(*(lambda reader=reader: say(reader) for reader in readers))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409]
    refused = next(answer for answer in answers if answer.status_code == 409)
    assert refused.headers["content-type"] == "application/problem+json"
    assert "came first" in refused.json()["detail"]
    seen_now = readers[0].get(f"/api/scans/{scan_id}").json()
    assert len(seen_now["reviews"]) == 1
    for reader in readers:  # each with a row of their own, once they have looked
        latest = readers[0].get(f"/api/scans/{scan_id}").json()["latest_review"]
        said = {"verdict": "pneumonia", "expected_latest": latest}
        assert reader.post(f"/api/scans/{scan_id}/review", json=said).status_code == 201
    assert len(readers[0].get(f"/api/scans/{scan_id}").json()["reviews"]) == 4


def test_a_verdict_by_the_scans_etag(review_server: ReviewServer, ledger: LedgerDriver) -> None:
    scan_id = add_classified(ledger, "1", 0.9)
    script = review_server.script()
    tag = script.get(f"/api/scans/{scan_id}").headers["etag"]
    url, said = f"/api/scans/{scan_id}/review", {"verdict": "unsure"}
    assert script.post(url, json=said, headers={"If-Match": '"other"'}).status_code == 412
    assert script.post(url, json=said, headers={"If-Match": tag}).status_code == 201
    assert script.post(url, json={"verdict": "unusable"}, headers={"If-Match": tag}).status_code == 412
    assert script.post(url, json={"verdict": "unusable"}, headers={"If-Match": "*"}).status_code == 201


def test_what_cannot_have_a_verdict(review_server: ReviewServer, ledger: LedgerDriver) -> None:
    (waits,) = ledger.add(file_version("1"))
    script = review_server.script()
    cases = [(waits, {"verdict": "unsure"}, 409), (99, {"verdict": "unsure"}, 404), (waits, {"verdict": "ill"}, 422)]
    cases += [
        (waits, {"verdict": "unsure", "prediction_id": 2**70}, 422),
        (waits, {}, 422),
        (0, {"verdict": "unsure"}, 422),
    ]
    for scan_id, said, status in cases:
        answer = script.post(f"/api/scans/{scan_id}/review", json=said)
        assert (answer.status_code, answer.json()["status"]) == (status, status)


def test_readers_cannot_tell_the_hidden_sample_and_scripts_of_admins_see_all(
    review_server: ReviewServer, ledger: LedgerDriver
) -> None:
    flagged, sampled = (add_classified(ledger, name, p, share=1.0) for name, p in (("1", 0.9), ("2", 0.1)))
    reader, by_hand, admin = (
        review_server.script("rita"),
        review_server.admin("adam"),
        review_server.script("root", Role.ADMIN),
    )
    for client in (reader, by_hand):  # an admin in the review app reads as others do
        assert sorted(ids(client.get("/api/flagged"))) == [flagged, sampled]
        for scan_id in (flagged, sampled):
            scan = client.get(f"/api/scans/{scan_id}").json()
            assert (scan["probability"], scan["flagged"], scan["hidden"], scan["predictions"]) == (None, None, True, [])
        assert ids(client.get("/api/scans", params={"at_most": 0.5})) == []
        exported = client.get("/api/scans.csv").text
        assert "0.9" not in exported
        assert "0.1" not in exported
    assert ids(admin.get("/api/flagged")) == [flagged]
    assert admin.get(f"/api/scans/{sampled}").json()["probability"] == 0.1
    assert ids(admin.get("/api/scans", params={"at_most": 0.5})) == [sampled]
    reader.post(f"/api/scans/{sampled}/review", json={"verdict": "no_pneumonia"})
    reviewed = reader.get(f"/api/scans/{sampled}").json()
    assert (reviewed["probability"], reviewed["hidden"], len(reviewed["predictions"])) == (0.1, False, 1)
    assert ids(reader.get("/api/flagged")) == [flagged]


def test_export_of_a_list(review_server: ReviewServer, ledger: LedgerDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("review.api.scans.MAX_PAGE_SIZE", 2)
    names = ["=cmd|' /C calc'!A0.png", "+1.png", "-1.png", "@SUM(1).png", "\t=1.png", 'a,"b".png', "é.png"]
    scans = [add_classified(ledger, name, 0.9 - number / 100) for number, name in enumerate(names)]
    out = ledger.reject(file_version("x"))
    script = review_server.script()
    answer = script.get("/api/scans.csv", params={"list": "to_read"})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="pneumowatch-to_read.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    assert [int(row["scan_id"]) for row in rows] == scans
    assert [row["path"].removeprefix("'") for row in rows] == names
    assert [row["path"][0] == "'" for row in rows] == [True] * 5 + [False] * 2
    assert (rows[0]["probability"], rows[0]["flagged"], rows[0]["verdict"]) == ("0.9", "true", "")
    (row,) = csv.DictReader(io.StringIO(script.get("/api/unscored.csv").text))
    assert (row["scan_id"], row["reason"]) == (str(out), "unreadable")
    assert [one["detail"] for one in review_server.database.read(lambda c: audit.list_actions(c, 9))] == [
        "unscored",
        "to_read",
    ]


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x", "\tx", "\rx", "\nx", "  =1"])
def test_no_cell_is_a_formula(text: str) -> None:
    assert csv_cell(text) == f"'{text}"


def test_numbers_stay_numbers() -> None:
    assert [csv_cell(value) for value in (-1, 0.1, True, None, "a-b")] == ["-1", "0.1", "true", "", "a-b"]
    assert csv_cell(datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)) == "2024-01-02T03:04:05+00:00"


def test_news(review_server: ReviewServer, ledger: LedgerDriver) -> None:
    script = review_server.script()
    now = script.get("/api/changes", params={"since": "0-0"}).json()["now"]
    scan_id = add_classified(ledger, "1", 0.9)
    answer = script.get("/api/changes", params={"since": now}).json()
    assert (answer["entered"], answer["reviewed"]) == (1, 0)
    script.post(f"/api/scans/{scan_id}/review", json={"verdict": "unsure"})
    assert script.get("/api/changes", params={"since": answer["now"]}).json()["reviewed"] == 1
    assert script.get("/api/changes", params={"since": "yesterday"}).status_code == 400


def test_nobody_asks_without_a_token(review_server: ReviewServer, ledger: LedgerDriver) -> None:
    add_classified(ledger, "1", 0.9)
    visitor = review_server.visitor()
    for path in (
        "/api/scans",
        "/api/flagged",
        "/api/unscored",
        "/api/scans/1",
        "/api/changes?since=0-0",
        "/api/scans.csv",
    ):
        answer = visitor.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")
    assert visitor.post("/api/scans/1/review", json={"verdict": "unsure"}).status_code == 401
    assert ledger.row(1)["verdict"] is None
