"""The SQL views: their columns are a contract, and what they leave out must be nobody's worry."""

from datetime import UTC, datetime, timedelta

import pytest
from books import MODEL, Book, classified, deferred, rejected, seen
from sqlalchemy import text

from db import ledger, scans
from db.states import Reason, State

# fmt: off
COLUMNS = [
    "scan_id", "source", "path", "state", "reason", "detail", "priority", "received_at", "finished_at", "sha256",
    "probability", "flagged", "caution", "model_version", "threshold", "verdict", "reviewer", "reviewed_at",
    "duplicate_of", "superseded_by", "study_uid", "series_uid", "sop_uid", "accession_number", "modality",
    "view_position", "age_years",
]
# fmt: on
LONG_AGO = timedelta(minutes=61)


def ids(book: Book, view: str, where: str = "") -> list[int]:
    return book.database.read(lambda c: list(c.scalars(text(f"SELECT scan_id FROM {view} {where}"))))


def read(book: Book, name: str, probability: float, flagged: bool = True, sha256: str | None = None) -> int:
    (scan_id,) = book.add(seen(name))
    book.finish(book.claimed(), classified(scan_id, sha256, probability, flagged))
    return scan_id


@pytest.mark.parametrize("view", scans.LISTED)
def test_columns(book: Book, view: str) -> None:
    found = book.database.read(lambda c: list(c.execute(text(f"SELECT * FROM {view}")).keys()))
    assert found == COLUMNS


def test_the_ledger_has_one_row_a_scan_in_every_state(book: Book) -> None:
    one = read(book, "1", 0.9)
    twin = read(book, "2", 0.9, sha256=book.row(one)["sha256"])
    out = book.reject(seen("3"))
    (held,) = book.add(seen("4"))
    book.claimed()
    (waits,) = book.add(seen("ward/5", inbox="er"))
    listed = {row["scan_id"]: row for row in book.database.read(lambda c: scans.listing(c, "scan_ledger", 100))}
    states = {one: "classified", twin: "duplicate", out: "rejected", held: "running", waits: "queued"}
    assert {scan_id: row["state"] for scan_id, row in listed.items()} == states
    assert (listed[waits]["source"], listed[waits]["path"]) == ("er", "ward/5")
    assert (listed[out]["reason"], listed[out]["detail"], listed[out]["flagged"]) == ("unreadable", "A sentence.", None)


def test_a_duplicate_shows_its_originals_result(book: Book) -> None:
    original = read(book, "1", 0.75)
    twin = read(book, "2", 0.1, flagged=False, sha256=book.row(original)["sha256"])
    rows = {row["scan_id"]: row for row in book.database.read(lambda c: scans.listing(c, "scan_ledger", 9))}
    result = ("probability", "flagged", "model_version", "threshold", "caution")
    assert [rows[twin][name] for name in result] == [0.75, True, MODEL, 0.5, None]
    assert (rows[twin]["state"], rows[twin]["duplicate_of"]) == ("duplicate", original)


def test_times_and_booleans_have_their_types_in_listings(book: Book) -> None:
    read(book, "1", 0.75)
    (row,) = book.database.read(lambda c: scans.listing(c, "flagged_cases", 9))
    assert row["flagged"] is True
    assert isinstance(row["received_at"], datetime)
    assert row["received_at"].tzinfo is UTC
    assert row["reviewed_at"] is None


def test_flagged_cases_most_probable_first(book: Book) -> None:
    middle, high, low = read(book, "1", 0.7), read(book, "2", 0.99), read(book, "3", 0.51)
    read(book, "4", 0.2, flagged=False)
    assert ids(book, "flagged_cases") == [high, middle, low]
    assert ids(book, "flagged_cases", "WHERE verdict IS NULL") == [high, middle, low]
    book.set(high, verdict="pneumonia")
    assert ids(book, "flagged_cases", "WHERE verdict IS NULL") == [middle, low]


def test_flagged_cases_leave_out_duplicates(book: Book) -> None:
    original = read(book, "1", 0.9)
    read(book, "2", 0.9, sha256=book.row(original)["sha256"])
    assert ids(book, "flagged_cases") == [original]


def test_flagged_cases_leave_out_superseded_scans(book: Book) -> None:
    read(book, "1", 0.9)
    (newer,) = book.arrive(seen("1", size=200)).to_ring
    assert ids(book, "flagged_cases") == []
    book.finish(book.claimed(), classified(newer))
    assert ids(book, "flagged_cases") == [newer]


def test_flagged_cases_show_the_film_that_was_replaced_and_came_back(book: Book) -> None:
    flagged = read(book, "1", 0.9)
    book.classify(seen("1", size=200), flagged=False)
    assert ids(book, "flagged_cases") == []
    book.arrive(seen("1"))
    assert ids(book, "flagged_cases") == [flagged]


def test_unscored_cases_are_what_has_no_result(book: Book) -> None:
    read(book, "1", 0.9)
    out = book.reject(seen("2"))
    (failed,) = book.add(seen("3"))
    claim = book.claimed()
    book.renew(claim, alone=True)
    book.expire(claim, max_attempts=1)
    book.add(seen("4"))
    assert sorted(ids(book, "unscored_cases")) == [out, failed]


def test_unscored_cases_hold_what_waits_beyond_the_cap(book: Book) -> None:
    held, late, fresh = book.add(seen("1"), seen("2"), seen("3"))
    book.claimed(1)
    for scan_id in (held, late):
        book.set(scan_id, received_at=ledger.now() - LONG_AGO)
    book.set(fresh, received_at=ledger.now() - LONG_AGO + timedelta(minutes=2))
    assert sorted(ids(book, "unscored_cases")) == [held, late]


def test_a_deferred_scan_waits_since_it_was_received(book: Book) -> None:
    """One whose share is away for hours must not be hidden by each new attempt."""
    (scan_id,) = book.add(seen())
    book.set(scan_id, received_at=ledger.now() - LONG_AGO)
    book.finish(book.claimed(), deferred(scan_id, seconds=3600))
    assert ids(book, "unscored_cases") == [scan_id]


def test_unscored_cases_leave_out_superseded_scans(book: Book) -> None:
    book.reject(seen("1"))
    book.classify(seen("1", size=200))
    assert ids(book, "unscored_cases") == []


def test_every_current_scan_without_a_result_is_unscored_or_recent(book: Book) -> None:
    for number, reason in enumerate(Reason):
        if reason is not Reason.SUPERSEDED:
            book.reject(seen(str(number)), reason)
    assert len(ids(book, "unscored_cases")) == len(Reason) - 1


def test_counts(book: Book) -> None:
    def counts() -> dict[State, int]:
        return book.database.read(scans.counts)

    assert counts() == dict.fromkeys(State, 0)
    read(book, "1", 0.9)
    one, two = book.add(seen("2"), seen("3", inbox="er"))
    book.finish(book.claimed(1), rejected(one))
    assert counts() == dict.fromkeys(State, 0) | {State.CLASSIFIED: 1, State.REJECTED: 1, State.QUEUED: 1}
    assert book.database.read(scans.waiting) == 1
    assert book.database.read(scans.finished) == 2
    assert book.database.read(scans.oldest_waiting) == book.row(two)["received_at"]
    by_source = book.database.read(scans.counts_by_source)
    assert list(by_source) == ["er", "inbox"]
    assert by_source["er"] == dict.fromkeys(State, 0) | {State.QUEUED: 1}
    assert sum(sum(states.values()) for states in by_source.values()) == 3


def test_sizes_and_limits_of_listings(book: Book) -> None:
    for number in range(5):
        read(book, str(number), 0.6 + number / 100)
    book.set(5, verdict="unsure")
    assert book.database.read(lambda c: scans.size_of(c, "flagged_cases")) == 5
    assert book.database.read(lambda c: scans.size_of(c, "flagged_cases", unread=True)) == 4
    unread = book.database.read(lambda c: scans.listing(c, "flagged_cases", 2, unread=True))
    assert [row["scan_id"] for row in unread] == [4, 3]
    with pytest.raises(ValueError, match="no such view"):
        book.database.read(lambda c: scans.size_of(c, "scans; DROP TABLE scans"))
