"""A case as its reader sees it: its result, its history, and the other images of study and patient."""

from dataclasses import replace
from typing import Any

import pytest
from support.ledger_driver import LedgerDriver, classified, file_version

from db.states import Verdict
from db.worklist import cases, verdicts
from db.worklist.cases import Case


def case(ledger: LedgerDriver, scan_id: int) -> Case:
    found = ledger.database.read(lambda c: cases.get_case(c, scan_id))
    assert found is not None
    return found


def say(ledger: LedgerDriver, scan_id: int, verdict: Verdict, reviewer: str) -> int:
    return ledger.database.write(lambda c: verdicts.record_verdict(c, scan_id, verdict, reviewer))


def test_there_is_no_such_scan(ledger: LedgerDriver) -> None:
    assert ledger.database.read(lambda c: cases.get_case(c, 99)) is None


def test_an_image_that_waits_has_nothing_yet(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.add(file_version())
    found = case(ledger, scan_id)
    assert (found.waiting, found.scored, found.current, found.related, found.reviews) == (True, False, None, [], [])
    assert [event["to_state"] for event in found.events] == ["queued"]


def test_a_duplicate_shows_what_its_original_has(ledger: LedgerDriver) -> None:
    (original,) = ledger.classify(file_version("a"), sha256="5" * 64)
    (duplicate,) = ledger.classify(file_version("b"), sha256="5" * 64)
    say(ledger, duplicate, Verdict.PNEUMONIA, "ada")
    found = case(ledger, duplicate)
    assert (found.scan["id"], found.result["id"]) == (duplicate, original)
    assert found.current is not None
    assert found.current["scan_id"] == original
    assert found.review_by("ada") is not None


def test_readers_disagree_by_their_last_words(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.classify(file_version())
    say(ledger, scan_id, Verdict.PNEUMONIA, "ada")
    say(ledger, scan_id, Verdict.NO_PNEUMONIA, "bob")
    assert case(ledger, scan_id).disputed
    say(ledger, scan_id, Verdict.NO_PNEUMONIA, "ada")
    found = case(ledger, scan_id)
    assert not found.disputed
    assert [(one["reviewer"], one["verdict"]) for one in found.standing_reviews] == [
        ("bob", "no_pneumonia"),
        ("ada", "no_pneumonia"),
    ]
    assert len(found.reviews) == 3


def test_a_verdict_taken_back_is_said_no_more_but_was_said(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.classify(file_version())
    review = say(ledger, scan_id, Verdict.PNEUMONIA, "ada")
    ledger.database.write(lambda c: verdicts.retract_verdict(c, review, "ada"))
    assert case(ledger, scan_id).review_by("ada") is None


def test_an_image_that_is_read_blind_opens_with_the_verdict(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.classify(file_version())
    assert case(ledger, scan_id).result_visible_to("ada")
    ledger.set(scan_id, hidden_until_verdict=True)
    assert not case(ledger, scan_id).result_visible_to("ada")
    review = say(ledger, scan_id, Verdict.PNEUMONIA, "ada")
    assert (case(ledger, scan_id).result_visible_to("ada"), case(ledger, scan_id).result_visible_to("bob")) == (
        True,
        False,
    )
    ledger.database.write(lambda c: verdicts.retract_verdict(c, review, "ada"))
    assert case(ledger, scan_id).result_visible_to("ada")


@pytest.mark.parametrize("flagged", [True, False])
def test_what_was_handed_in_is_not_read_blind_and_no_draw_of_the_sample(ledger: LedgerDriver, flagged: bool) -> None:
    ids = ledger.add(file_version(), file_version(inbox="uploads"))
    outcomes = [replace(classified(scan_id, flagged=flagged), sample_unflagged=1.0) for scan_id in ids]
    ledger.finish(ledger.claimed(), *outcomes)
    columns = ("hidden_until_verdict", "sampled_share", "worklist_rank")
    came, handed_in = ([ledger.row(scan_id)[column] for column in columns] for scan_id in ids)
    assert handed_in == [False, None, 0.9 if flagged else None]
    assert came[0] is True
    assert came[2] is not None


def test_other_images_of_the_study_stand_before_those_of_the_patient(ledger: LedgerDriver) -> None:
    headers: list[dict[str, Any]] = [
        {"study_uid": "1.2", "patient_key": "p"},
        {"study_uid": "1.1", "patient_key": "p"},
        {"study_uid": "1.2", "patient_key": None},
        {"study_uid": "1.3", "patient_key": "q"},
        {"study_uid": None, "patient_key": None},
        {"study_uid": "1.2", "patient_key": "p", "superseded_by": 1},
    ]
    ids = [ledger.classify(file_version(f"{number}.dcm"))[0] for number in range(len(headers))]
    for scan_id, columns in zip(ids, headers, strict=True):
        ledger.set(scan_id, **columns)
    assert [(one.id, one.same_study) for one in case(ledger, ids[0]).related] == [(ids[2], True), (ids[1], False)]
    assert case(ledger, ids[4]).related == []
