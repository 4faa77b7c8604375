"""Verdicts: kept with what their reader saw, the newest one in the views, a duplicate's with its original."""

from typing import Any

import pytest
from books import Book, at_once, classified, seen
from sqlalchemy import select, text, update

from db.ledger import queries
from db.models import Review, Scan
from db.states import Verdict
from db.worklist import verdicts as reviews
from pneumowatch.errors import ReviewRefused

ILL, WELL = Verdict.PNEUMONIA, Verdict.NO_PNEUMONIA


def say(book: Book, scan_id: int, verdict: Verdict, reviewer: str = "ada", **more: Any) -> int:
    return book.database.write(lambda c: reviews.record_verdict(c, scan_id, verdict, reviewer, **more))


def kept(book: Book) -> list[tuple[Any, ...]]:
    columns = (Review.scan_id, Review.verdict, Review.reviewer, Review.prediction_id)
    rows = book.database.read(lambda c: c.execute(select(*columns).order_by(Review.id)).all())
    return [tuple(row) for row in rows]


def test_a_verdict_keeps_the_prediction_that_its_reader_saw(book: Book) -> None:
    (scan_id,) = book.classify(seen())
    say(book, scan_id, ILL, comment="lower left")
    (prediction,) = book.predictions(scan_id)
    assert kept(book) == [(scan_id, "pneumonia", "ada", prediction["id"])]
    row = book.row(scan_id)
    assert (row["verdict"], row["reviewer"]) == ("pneumonia", "ada")
    assert row["reviewed_at"] is not None
    unread = text("SELECT count(*) FROM flagged_cases WHERE verdict IS NULL")
    assert book.database.read(lambda c: c.scalar(unread)) == 0


def test_of_several_readers_all_are_kept_and_the_newest_stands(book: Book) -> None:
    (scan_id,) = book.classify(seen())
    for verdict, reviewer in ((ILL, "ada"), (WELL, "bob"), (ILL, "ada")):
        say(book, scan_id, verdict, reviewer)
    assert [row[1:3] for row in kept(book)] == [("pneumonia", "ada"), ("no_pneumonia", "bob"), ("pneumonia", "ada")]
    assert (book.row(scan_id)["verdict"], book.row(scan_id)["reviewer"]) == ("pneumonia", "ada")


def test_said_twice_in_a_row_it_is_one_review(book: Book) -> None:
    (scan_id,) = book.classify(seen())
    assert say(book, scan_id, ILL) == say(book, scan_id, ILL)
    assert len(kept(book)) == 1
    assert say(book, scan_id, ILL, comment="after all") > 1


def test_an_original_comes_first_whichever_was_seen_first(book: Book) -> None:
    """Its film is kept under its own hash: a copy with another header has another."""
    first, second = book.add(seen("ward/a"), seen("STAT/a"))
    claim = book.claimed()
    book.finish(claim, classified(second, "5" * 64))
    book.database.write(
        lambda c: c.execute(
            update(Scan).where(Scan.id == first).values(state="duplicate", duplicate_of=second, sha256="6" * 64)
        )
    )
    for scan_id in (first, second):
        found = book.database.read(lambda c, scan_id=scan_id: queries.file_locations(c, scan_id))
        assert [place.id for place in found] == [second, first]


def test_what_is_said_of_a_duplicate_is_said_of_its_original(book: Book) -> None:
    (original,) = book.classify(seen("a"), sha256="5" * 64)
    (twin,) = book.classify(seen("b"), sha256="5" * 64)
    assert book.state(twin) == "duplicate"
    say(book, twin, WELL)
    assert [row[0] for row in kept(book)] == [original]
    assert (book.row(original)["verdict"], book.row(twin)["verdict"]) == ("no_pneumonia", None)
    assert [place.id for place in book.database.read(lambda c: queries.file_locations(c, twin))] == [original, twin]


def test_a_rejected_film_can_be_judged_too(book: Book) -> None:
    scan_id = book.reject(seen())
    say(book, scan_id, Verdict.UNUSABLE)
    assert kept(book) == [(scan_id, "unusable", "ada", None)]


def test_what_cannot_be_judged(book: Book) -> None:
    one, other = book.classify(seen("one"))[0], book.classify(seen("other"))[0]
    (waiting,) = book.add(seen("waits"))
    with pytest.raises(ReviewRefused, match="not been processed"):
        say(book, waiting, ILL)
    with pytest.raises(ReviewRefused, match="no scan 99"):
        say(book, 99, ILL)
    (foreign,) = book.predictions(other)
    with pytest.raises(ReviewRefused, match="no prediction"):
        say(book, one, ILL, prediction_id=foreign["id"])
    assert kept(book) == []


def test_of_two_readers_at_once_the_later_review_stands(book: Book) -> None:
    (scan_id,) = book.classify(seen())
    at_once(lambda: say(book, scan_id, ILL, "ada"), lambda: say(book, scan_id, WELL, "bob"))
    assert book.row(scan_id)["reviewer"] == kept(book)[-1][2]


def take_back(book: Book, review: int, reviewer: str = "ada") -> int:
    return book.database.write(lambda c: reviews.retract_verdict(c, review, reviewer))


def shown(book: Book, scan_id: int) -> tuple[Any, ...]:
    row = book.row(scan_id)
    return row["verdict"], row["reviewer"]


def test_a_verdict_taken_back_stays_and_stands_no_more(book: Book) -> None:
    (scan_id,) = book.classify(seen())
    first, second = say(book, scan_id, ILL, "bob"), say(book, scan_id, WELL)
    for _ in range(2):  # a key that bounces
        assert take_back(book, second) == scan_id
    assert shown(book, scan_id) == ("pneumonia", "bob")
    history = book.database.read(lambda c: reviews.review_history(c, scan_id))
    assert [(one["id"], one["retracted_at"] is None) for one in history] == [(first, True), (second, False)]
    take_back(book, first, "bob")
    assert (*shown(book, scan_id), book.row(scan_id)["reviewed_at"]) == (None, None, None)


def test_said_again_after_it_was_taken_back_it_is_another_review(book: Book) -> None:
    (scan_id,) = book.classify(seen())
    first = say(book, scan_id, ILL)
    take_back(book, first)
    assert say(book, scan_id, ILL) > first
    assert shown(book, scan_id) == ("pneumonia", "ada")


def test_what_was_said_before_another_reader_stays_as_it_is(book: Book) -> None:
    (scan_id,) = book.classify(seen())
    mine = say(book, scan_id, ILL)
    say(book, scan_id, WELL, "bob")
    take_back(book, mine)
    assert shown(book, scan_id) == ("no_pneumonia", "bob")


def test_nobody_takes_back_what_another_said(book: Book) -> None:
    (scan_id,) = book.classify(seen())
    review = say(book, scan_id, ILL)
    for number, reader in ((review, "bob"), (review + 1, "ada")):
        with pytest.raises(ReviewRefused, match="Only the reader"):
            take_back(book, number, reader)
    assert shown(book, scan_id) == ("pneumonia", "ada")


def test_what_was_taken_back_teaches_nothing(book: Book) -> None:
    (scan_id,) = book.classify(seen())
    review = say(book, scan_id, ILL)
    assert [said.review_id for said in book.database.read(reviews.standing_reviews)] == [review]
    take_back(book, review)
    assert book.database.read(reviews.standing_reviews) == []


def test_taken_back_and_said_at_once(book: Book) -> None:
    (scan_id,) = book.classify(seen())
    mine = say(book, scan_id, ILL)
    at_once(lambda: take_back(book, mine), lambda: say(book, scan_id, WELL, "bob"))
    assert shown(book, scan_id) == ("no_pneumonia", "bob")
