"""Rescoring: predictions of another model beside existing ones: none lost, none doubled, one of them shown."""

from dataclasses import replace
from typing import Any

import pytest
from support.ledger_driver import MODEL, LedgerDriver, classified, file_version, model_folder, run_concurrently

from db.ledger import queries
from db.ledger.outcomes import Classified
from db.registry import model_registry, rescoring
from db.registry.rescoring import RescoreCandidate
from pneumowatch.header import Header

OTHER = "model-2"


@pytest.fixture
def old(ledger: LedgerDriver) -> list[int]:
    """Three classified scans; a second model is known and has read none of them."""
    ledger.database.write(lambda c: model_registry.register_model(c, model_folder(OTHER, "2" * 64), b"other", "test"))
    return ledger.classify(*(file_version(f"{number}.png") for number in range(3)))


def said(scan_id: int, probability: float = 0.2) -> Classified:
    flagged = probability >= 0.4
    return replace(classified(scan_id), probability=probability, flagged=flagged, threshold=0.4, model_version=OTHER)


def add(ledger: LedgerDriver, *outcomes: Classified) -> int:
    return ledger.database.write(lambda c: rescoring.add_predictions(c, outcomes))


def show(ledger: LedgerDriver, version: str = OTHER, limit: int = 100) -> int:
    return ledger.database.write(lambda c: rescoring.make_current(c, version, limit, "ada", lambda _: None))


def unread(ledger: LedgerDriver, version: str = OTHER, after: int = 0, limit: int = 100) -> list[RescoreCandidate]:
    return ledger.database.read(lambda c: rescoring.unscored_by(c, version, after, limit))


def predictions(ledger: LedgerDriver, scan_id: int) -> list[tuple[Any, ...]]:
    rows = ledger.predictions(scan_id)
    return sorted((row["model_version"], row["probability"], row["threshold"], row["current"]) for row in rows)


def test_what_a_model_has_not_read(ledger: LedgerDriver, old: list[int]) -> None:
    ledger.reject(file_version("letter.txt"))
    ledger.add(file_version("waits.png"))
    assert [scan.id for scan in unread(ledger)] == old
    assert unread(ledger, MODEL) == []
    assert [scan.id for scan in unread(ledger, after=old[0], limit=1)] == [old[1]]
    assert ledger.database.read(lambda c: rescoring.rescore_counts(c, OTHER)) == (3, 3)
    assert ledger.database.read(lambda c: rescoring.rescore_counts(c, MODEL)) == (3, 0)
    (first, *_) = unread(ledger)
    assert first == RescoreCandidate(old[0], "inbox", b"0.png", f"{old[0]:064x}", None)


def test_a_prediction_is_added_once_and_the_first_one_shown(ledger: LedgerDriver, old: list[int]) -> None:
    assert add(ledger, *(said(scan_id) for scan_id in old)) == 3
    assert add(ledger, *(said(scan_id, 0.3) for scan_id in old)) == 0
    for scan_id in old:
        assert predictions(ledger, scan_id) == [(MODEL, 0.9, 0.5, True), (OTHER, 0.2, 0.4, False)]
        assert ledger.row(scan_id)["model_version"] == MODEL
    assert unread(ledger) == []


def test_made_current_they_are_shown_with_an_event_and_nothing_is_lost(ledger: LedgerDriver, old: list[int]) -> None:
    add(ledger, said(old[0], 0.1), said(old[1], 0.1 + 0.2))
    assert show(ledger) == 2
    for scan_id, probability in ((old[0], 0.1), (old[1], 0.1 + 0.2)):
        row = ledger.row(scan_id)
        assert (row["probability"], row["flagged"], row["threshold"]) == (probability, False, 0.4)
        assert (row["model_version"], row["state"]) == (OTHER, "classified")
        assert predictions(ledger, scan_id) == [(MODEL, 0.9, 0.5, False), (OTHER, probability, 0.4, True)]
        event = ledger.events(scan_id)[-1]
        assert (event["from_state"], event["to_state"], event["by"]) == ("classified", "classified", "ada")
        assert OTHER in event["detail"]
    assert ledger.row(old[2])["model_version"] == MODEL
    flagged = ledger.database.read(lambda c: queries.view_rows(c, "flagged_cases", 10))
    assert [case["scan_id"] for case in flagged] == [old[2]]


def test_made_current_twice_changes_nothing(ledger: LedgerDriver, old: list[int]) -> None:
    add(ledger, *(said(scan_id) for scan_id in old))
    assert [show(ledger, limit=2) for _ in range(3)] == [2, 1, 0]
    assert all(len(ledger.events(scan_id)) == 4 for scan_id in old)


def test_the_first_model_can_be_shown_again(ledger: LedgerDriver, old: list[int]) -> None:
    add(ledger, *(said(scan_id) for scan_id in old))
    show(ledger)
    assert show(ledger, MODEL) == 3
    for scan_id in old:
        row = ledger.row(scan_id)
        assert (row["probability"], row["flagged"], row["model_version"]) == (0.9, True, MODEL)


def test_the_caution_is_the_shown_models(ledger: LedgerDriver, old: list[int]) -> None:
    (scan_id,) = ledger.add(file_version("adult.dcm"))
    outcome = replace(classified(scan_id), caution="age", header=Header(age_years=42))
    ledger.finish(ledger.claimed(), outcome)
    add(ledger, said(scan_id), said(old[0]))
    asked = []

    def caution(age: float | None) -> str | None:
        asked.append(age)
        return None

    ledger.database.write(lambda c: rescoring.make_current(c, OTHER, 100, "ada", caution))
    assert ledger.row(scan_id)["caution"] is None
    assert sorted(asked, key=str) == [42, None]


def test_two_rescore_at_once(ledger: LedgerDriver, old: list[int]) -> None:
    added = run_concurrently(*[lambda: add(ledger, *(said(scan_id) for scan_id in old))] * 2)
    assert sum(added) == 3
    shown = run_concurrently(*[lambda: show(ledger)] * 2)
    assert sum(shown) in (3, 6)  # on PostgreSQL both may have found them; each scan shows one
    for scan_id in old:
        assert [current for *_, current in predictions(ledger, scan_id)] == [False, True]
        assert ledger.row(scan_id)["model_version"] == OTHER
