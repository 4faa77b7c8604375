"""Requeueing never doubles a prediction, whatever else runs at the same time."""

from dataclasses import replace
from itertools import chain
from typing import Any

from support.ledger_driver import MODEL, LedgerDriver, classified, file_version, model_folder, run_concurrently

from db.ledger import transitions
from db.models import Scan
from db.registry import model_registry
from db.states import Reason, State

OTHER = "model-2"


def again(ledger: LedgerDriver, scan_id: int, **outcome: Any) -> None:
    """Make a scan that has a prediction need another: by hand, or by a restored backup."""
    ledger.set(scan_id, state=State.REJECTED, reason=Reason.UNREADABLE)
    assert ledger.requeue(Scan.id == scan_id) == [scan_id]
    ledger.finish(ledger.claimed(), classified(scan_id, ledger.row(scan_id)["sha256"], **outcome))
    assert ledger.state(scan_id) == "classified"


def told(ledger: LedgerDriver, scan_id: int) -> list[tuple[str, float, bool]]:
    return sorted((row["model_version"], row["probability"], row["current"]) for row in ledger.predictions(scan_id))


def test_a_scan_of_an_earlier_life_has_one_prediction_of_a_model(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.classify(file_version())
    again(ledger, scan_id, probability=0.75)
    assert told(ledger, scan_id) == [(MODEL, 0.75, True)]
    assert ledger.row(scan_id)["probability"] == 0.75


def test_the_prediction_of_another_model_stays_and_one_is_current(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.classify(file_version())
    ledger.database.write(
        lambda c: model_registry.register_model(c, model_folder(OTHER, "1" * 64), b"an archive", "test")
    )
    ledger.set(scan_id, state=State.FAILED)
    ledger.requeue(Scan.id == scan_id)
    outcome = classified(scan_id, ledger.row(scan_id)["sha256"], probability=0.25)
    ledger.finish(ledger.claimed(), replace(outcome, model_version=OTHER))
    assert told(ledger, scan_id) == [(MODEL, 0.9, False), (OTHER, 0.25, True)]
    again(ledger, scan_id, probability=0.9)  # by the first again
    assert told(ledger, scan_id) == [(MODEL, 0.9, True), (OTHER, 0.25, False)]


def test_its_batch_mates_lose_nothing_by_it(ledger: LedgerDriver) -> None:
    (old,) = ledger.classify(file_version("old"))
    ledger.set(old, state=State.FAILED)
    (new,) = ledger.add(file_version("new"))
    ledger.requeue(Scan.id == old)
    ledger.finish(ledger.claimed(), classified(old, ledger.row(old)["sha256"]), classified(new))
    assert ledger.states() == {old: "classified", new: "classified"}
    assert [len(ledger.predictions(scan_id)) for scan_id in (old, new)] == [1, 1]


def test_requeued_twice_at_once_it_is_queued_once(ledger: LedgerDriver) -> None:
    scans = [ledger.reject(file_version(f"{number}")) for number in range(20)]
    moved = run_concurrently(*[ledger.requeue] * 3)
    assert sorted(chain(*moved)) == scans
    assert all(ledger.moves(scan_id)[3:] == [("rejected", "queued")] for scan_id in scans)


def test_requeue_beside_sweeps_and_workers_reads_each_scan_once(ledger: LedgerDriver) -> None:
    scans = [ledger.reject(file_version(f"{number}")) for number in range(30)]

    def sweep() -> None:
        for _ in range(10):
            ledger.mark_announced(limit=7)

    def work() -> None:
        for _ in range(15):
            if claim := ledger.claim(4):
                ledger.finish(claim, *(classified(scan.id) for scan in claim.scans))

    run_concurrently(ledger.requeue, ledger.requeue, sweep, sweep, work, work)
    sweep()
    while claim := ledger.claim(100):
        ledger.finish(claim, *(classified(scan.id) for scan in claim.scans))
    assert set(ledger.states().values()) == {"classified"}
    assert [len(ledger.predictions(scan_id)) for scan_id in scans] == [1] * 30
    assert all([to for _, to in ledger.moves(scan_id)].count("classified") == 1 for scan_id in scans)


def test_requeue_leaves_what_has_a_result_or_waits(ledger: LedgerDriver) -> None:
    (done,) = ledger.classify(file_version("done"))
    (waits,) = ledger.add(file_version("waits"))
    before = ledger.event_count()
    assert ledger.requeue(Scan.id.in_([done, waits])) == []
    assert ledger.event_count() == before


def test_requeued_are_those_that_are_named_or_alike_and_no_others(ledger: LedgerDriver) -> None:
    def requeue(**which: Any) -> list[int]:
        return ledger.database.write(lambda c: transitions.requeue_matching(c, "admin", **which))

    named, unreadable, gone = (ledger.reject(file_version(name)) for name in ("named", "unreadable", "gone"))
    ledger.set(gone, reason=Reason.VANISHED)
    failed, other = (ledger.reject(file_version(name)) for name in ("failed", "other"))
    ledger.set(failed, state=State.FAILED)
    ledger.set(other, reason=Reason.TOO_LARGE)
    assert requeue() == []
    assert requeue(scan_ids=[named], failed=True) == [named, failed]
    assert requeue(reason=Reason.UNREADABLE) == [unreadable]
    assert requeue(scan_ids=[gone, named]) == [gone]  # the other one waits already
    assert ledger.state(other) == "rejected"
