"""A film as its reader sees it: its result, all that was said and done, and the other films of study and patient."""

from dataclasses import replace
from typing import Any

import pytest
from books import Book, classified, seen

from db.states import Verdict
from db.worklist import cases, verdicts
from db.worklist.cases import Case


def case(book: Book, scan_id: int) -> Case:
    found = book.database.read(lambda c: cases.get_case(c, scan_id))
    assert found is not None
    return found


def say(book: Book, scan_id: int, verdict: Verdict, reviewer: str) -> int:
    return book.database.write(lambda c: verdicts.record_verdict(c, scan_id, verdict, reviewer))


def test_there_is_no_such_scan(book: Book) -> None:
    assert book.database.read(lambda c: cases.get_case(c, 99)) is None


def test_a_film_that_waits_has_nothing_yet(book: Book) -> None:
    (scan_id,) = book.add(seen())
    found = case(book, scan_id)
    assert (found.waiting, found.scored, found.current, found.related, found.reviews) == (True, False, None, [], [])
    assert [event["to_state"] for event in found.events] == ["queued"]


def test_a_duplicate_shows_what_its_original_has(book: Book) -> None:
    (original,) = book.classify(seen("a"), sha256="5" * 64)
    (twin,) = book.classify(seen("b"), sha256="5" * 64)
    say(book, twin, Verdict.PNEUMONIA, "ada")
    found = case(book, twin)
    assert (found.scan["id"], found.result["id"]) == (twin, original)
    assert found.current is not None
    assert found.current["scan_id"] == original
    assert found.review_by("ada") is not None


def test_readers_disagree_by_their_last_words(book: Book) -> None:
    (scan_id,) = book.classify(seen())
    say(book, scan_id, Verdict.PNEUMONIA, "ada")
    say(book, scan_id, Verdict.NO_PNEUMONIA, "bob")
    assert case(book, scan_id).disputed
    say(book, scan_id, Verdict.NO_PNEUMONIA, "ada")
    found = case(book, scan_id)
    assert not found.disputed
    assert [(one["reviewer"], one["verdict"]) for one in found.standing_reviews] == [
        ("bob", "no_pneumonia"),
        ("ada", "no_pneumonia"),
    ]
    assert len(found.reviews) == 3


def test_a_verdict_taken_back_is_said_no_more_but_was_said(book: Book) -> None:
    (scan_id,) = book.classify(seen())
    review = say(book, scan_id, Verdict.PNEUMONIA, "ada")
    book.database.write(lambda c: verdicts.retract_verdict(c, review, "ada"))
    assert case(book, scan_id).review_by("ada") is None


def test_a_film_that_is_read_blind_opens_with_the_verdict(book: Book) -> None:
    (scan_id,) = book.classify(seen())
    assert case(book, scan_id).result_visible_to("ada")
    book.set(scan_id, hidden_until_verdict=True)
    assert not case(book, scan_id).result_visible_to("ada")
    review = say(book, scan_id, Verdict.PNEUMONIA, "ada")
    assert (case(book, scan_id).result_visible_to("ada"), case(book, scan_id).result_visible_to("bob")) == (True, False)
    book.database.write(lambda c: verdicts.retract_verdict(c, review, "ada"))
    assert case(book, scan_id).result_visible_to("ada")


@pytest.mark.parametrize("flagged", [True, False])
def test_what_was_handed_in_is_not_read_blind_and_no_draw_of_the_sample(book: Book, flagged: bool) -> None:
    ids = book.add(seen(), seen(inbox="uploads"))
    outcomes = [replace(classified(scan_id, flagged=flagged), sample_unflagged=1.0) for scan_id in ids]
    book.finish(book.claimed(), *outcomes)
    columns = ("hidden_until_verdict", "sampled_share", "worklist_rank")
    came, handed_in = ([book.row(scan_id)[column] for column in columns] for scan_id in ids)
    assert handed_in == [False, None, 0.9 if flagged else None]
    assert came[0] is True
    assert came[2] is not None


def test_other_films_of_the_study_stand_before_those_of_the_patient(book: Book) -> None:
    headers: list[dict[str, Any]] = [
        {"study_uid": "1.2", "patient_key": "p"},
        {"study_uid": "1.1", "patient_key": "p"},
        {"study_uid": "1.2", "patient_key": None},
        {"study_uid": "1.3", "patient_key": "q"},
        {"study_uid": None, "patient_key": None},
        {"study_uid": "1.2", "patient_key": "p", "superseded_by": 1},
    ]
    ids = [book.classify(seen(f"{number}.dcm"))[0] for number in range(len(headers))]
    for scan_id, columns in zip(ids, headers, strict=True):
        book.set(scan_id, **columns)
    assert [(one.id, one.same_study) for one in case(book, ids[0]).related] == [(ids[2], True), (ids[1], False)]
    assert case(book, ids[4]).related == []
