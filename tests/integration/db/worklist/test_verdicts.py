"""Verdicts: kept with what their reader saw, the newest one in the views, a duplicate's with its original."""

from typing import Any

import pytest
from sqlalchemy import select, text, update
from support.ledger_driver import LedgerDriver, classified, file_version, run_concurrently

from db.ledger import queries
from db.models import Review, Scan
from db.states import Verdict
from db.worklist import verdicts as reviews
from pneumowatch.errors import ReviewRefused

ILL, WELL = Verdict.PNEUMONIA, Verdict.NO_PNEUMONIA


def say(ledger: LedgerDriver, scan_id: int, verdict: Verdict, reviewer: str = "ada", **more: Any) -> int:
    return ledger.database.write(lambda c: reviews.record_verdict(c, scan_id, verdict, reviewer, **more))


def kept(ledger: LedgerDriver) -> list[tuple[Any, ...]]:
    columns = (Review.scan_id, Review.verdict, Review.reviewer, Review.prediction_id)
    rows = ledger.database.read(lambda c: c.execute(select(*columns).order_by(Review.id)).all())
    return [tuple(row) for row in rows]


def test_a_verdict_keeps_the_prediction_that_its_reader_saw(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.classify(file_version())
    say(ledger, scan_id, ILL, comment="lower left")
    (prediction,) = ledger.predictions(scan_id)
    assert kept(ledger) == [(scan_id, "pneumonia", "ada", prediction["id"])]
    row = ledger.row(scan_id)
    assert (row["verdict"], row["reviewer"]) == ("pneumonia", "ada")
    assert row["reviewed_at"] is not None
    unread = text("SELECT count(*) FROM flagged_cases WHERE verdict IS NULL")
    assert ledger.database.read(lambda c: c.scalar(unread)) == 0


def test_of_several_readers_all_are_kept_and_the_newest_stands(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.classify(file_version())
    for verdict, reviewer in ((ILL, "ada"), (WELL, "bob"), (ILL, "ada")):
        say(ledger, scan_id, verdict, reviewer)
    assert [row[1:3] for row in kept(ledger)] == [("pneumonia", "ada"), ("no_pneumonia", "bob"), ("pneumonia", "ada")]
    assert (ledger.row(scan_id)["verdict"], ledger.row(scan_id)["reviewer"]) == ("pneumonia", "ada")


def test_said_twice_in_a_row_it_is_one_review(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.classify(file_version())
    assert say(ledger, scan_id, ILL) == say(ledger, scan_id, ILL)
    assert len(kept(ledger)) == 1
    assert say(ledger, scan_id, ILL, comment="after all") > 1


def test_an_original_comes_first_whichever_was_seen_first(ledger: LedgerDriver) -> None:
    """Its image is kept under its own hash: a copy with another header has another."""
    first, second = ledger.add(file_version("ward/a"), file_version("STAT/a"))
    claim = ledger.claimed()
    ledger.finish(claim, classified(second, "5" * 64))
    ledger.database.write(
        lambda c: c.execute(
            update(Scan).where(Scan.id == first).values(state="duplicate", duplicate_of=second, sha256="6" * 64)
        )
    )
    for scan_id in (first, second):
        found = ledger.database.read(lambda c, scan_id=scan_id: queries.file_locations(c, scan_id))
        assert [place.id for place in found] == [second, first]


def test_what_is_said_of_a_duplicate_is_said_of_its_original(ledger: LedgerDriver) -> None:
    (original,) = ledger.classify(file_version("a"), sha256="5" * 64)
    (twin,) = ledger.classify(file_version("b"), sha256="5" * 64)
    assert ledger.state(twin) == "duplicate"
    say(ledger, twin, WELL)
    assert [row[0] for row in kept(ledger)] == [original]
    assert (ledger.row(original)["verdict"], ledger.row(twin)["verdict"]) == ("no_pneumonia", None)
    assert [place.id for place in ledger.database.read(lambda c: queries.file_locations(c, twin))] == [original, twin]


def test_a_rejected_image_can_have_a_verdict_too(ledger: LedgerDriver) -> None:
    scan_id = ledger.reject(file_version())
    say(ledger, scan_id, Verdict.UNUSABLE)
    assert kept(ledger) == [(scan_id, "unusable", "ada", None)]


def test_what_cannot_have_a_verdict(ledger: LedgerDriver) -> None:
    one, other = ledger.classify(file_version("one"))[0], ledger.classify(file_version("other"))[0]
    (waiting,) = ledger.add(file_version("waits"))
    with pytest.raises(ReviewRefused, match="not been processed"):
        say(ledger, waiting, ILL)
    with pytest.raises(ReviewRefused, match="no scan 99"):
        say(ledger, 99, ILL)
    (foreign,) = ledger.predictions(other)
    with pytest.raises(ReviewRefused, match="no prediction"):
        say(ledger, one, ILL, prediction_id=foreign["id"])
    assert kept(ledger) == []


def test_of_two_readers_at_once_the_later_review_stands(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.classify(file_version())
    run_concurrently(lambda: say(ledger, scan_id, ILL, "ada"), lambda: say(ledger, scan_id, WELL, "bob"))
    assert ledger.row(scan_id)["reviewer"] == kept(ledger)[-1][2]


def take_back(ledger: LedgerDriver, review: int, reviewer: str = "ada") -> int:
    return ledger.database.write(lambda c: reviews.retract_verdict(c, review, reviewer))


def shown(ledger: LedgerDriver, scan_id: int) -> tuple[Any, ...]:
    row = ledger.row(scan_id)
    return row["verdict"], row["reviewer"]


def test_a_verdict_taken_back_stays_and_stands_no_more(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.classify(file_version())
    first, second = say(ledger, scan_id, ILL, "bob"), say(ledger, scan_id, WELL)
    for _ in range(2):  # a key that bounces
        assert take_back(ledger, second) == scan_id
    assert shown(ledger, scan_id) == ("pneumonia", "bob")
    history = ledger.database.read(lambda c: reviews.review_history(c, scan_id))
    assert [(one["id"], one["retracted_at"] is None) for one in history] == [(first, True), (second, False)]
    take_back(ledger, first, "bob")
    assert (*shown(ledger, scan_id), ledger.row(scan_id)["reviewed_at"]) == (None, None, None)


def test_said_again_after_it_was_taken_back_it_is_another_review(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.classify(file_version())
    first = say(ledger, scan_id, ILL)
    take_back(ledger, first)
    assert say(ledger, scan_id, ILL) > first
    assert shown(ledger, scan_id) == ("pneumonia", "ada")


def test_what_was_said_before_another_reader_stays_as_it_is(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.classify(file_version())
    mine = say(ledger, scan_id, ILL)
    say(ledger, scan_id, WELL, "bob")
    take_back(ledger, mine)
    assert shown(ledger, scan_id) == ("no_pneumonia", "bob")


def test_nobody_takes_back_what_another_said(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.classify(file_version())
    review = say(ledger, scan_id, ILL)
    for number, reader in ((review, "bob"), (review + 1, "ada")):
        with pytest.raises(ReviewRefused, match="Only the reader"):
            take_back(ledger, number, reader)
    assert shown(ledger, scan_id) == ("pneumonia", "ada")


def test_what_was_taken_back_teaches_nothing(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.classify(file_version())
    review = say(ledger, scan_id, ILL)
    assert [said.review_id for said in ledger.database.read(reviews.standing_reviews)] == [review]
    take_back(ledger, review)
    assert ledger.database.read(reviews.standing_reviews) == []


def test_taken_back_and_said_at_once(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.classify(file_version())
    mine = say(ledger, scan_id, ILL)
    run_concurrently(lambda: take_back(ledger, mine), lambda: say(ledger, scan_id, WELL, "bob"))
    assert shown(ledger, scan_id) == ("no_pneumonia", "bob")
