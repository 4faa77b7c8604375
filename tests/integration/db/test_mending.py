"""What mends the ledger never doubles a prediction, whoever else is at work."""

from dataclasses import replace
from itertools import chain
from typing import Any

from books import MODEL, Book, at_once, classified, model_folder, seen

from db.ledger import transitions
from db.models import Scan
from db.registry import model_registry
from db.states import Reason, State

OTHER = "model-2"


def again(book: Book, scan_id: int, **outcome: Any) -> None:
    """A scan that has a prediction is made to need another: by hand, or by a backup that was put back."""
    book.set(scan_id, state=State.REJECTED, reason=Reason.UNREADABLE)
    assert book.requeue(Scan.id == scan_id) == [scan_id]
    book.finish(book.claimed(), classified(scan_id, book.row(scan_id)["sha256"], **outcome))
    assert book.state(scan_id) == "classified"


def told(book: Book, scan_id: int) -> list[tuple[str, float, bool]]:
    return sorted((row["model_version"], row["probability"], row["current"]) for row in book.predictions(scan_id))


def test_a_scan_of_an_earlier_life_has_one_prediction_of_a_model(book: Book) -> None:
    (scan_id,) = book.classify(seen())
    again(book, scan_id, probability=0.75)
    assert told(book, scan_id) == [(MODEL, 0.75, True)]
    assert book.row(scan_id)["probability"] == 0.75


def test_the_prediction_of_another_model_stays_and_one_is_current(book: Book) -> None:
    (scan_id,) = book.classify(seen())
    book.database.write(
        lambda c: model_registry.register_model(c, model_folder(OTHER, "1" * 64), b"an archive", "test")
    )
    book.set(scan_id, state=State.FAILED)
    book.requeue(Scan.id == scan_id)
    outcome = classified(scan_id, book.row(scan_id)["sha256"], probability=0.25)
    book.finish(book.claimed(), replace(outcome, model_version=OTHER))
    assert told(book, scan_id) == [(MODEL, 0.9, False), (OTHER, 0.25, True)]
    again(book, scan_id, probability=0.9)  # by the first again
    assert told(book, scan_id) == [(MODEL, 0.9, True), (OTHER, 0.25, False)]


def test_its_batch_mates_lose_nothing_by_it(book: Book) -> None:
    (old,) = book.classify(seen("old"))
    book.set(old, state=State.FAILED)
    (new,) = book.add(seen("new"))
    book.requeue(Scan.id == old)
    book.finish(book.claimed(), classified(old, book.row(old)["sha256"]), classified(new))
    assert book.states() == {old: "classified", new: "classified"}
    assert [len(book.predictions(scan_id)) for scan_id in (old, new)] == [1, 1]


def test_requeued_twice_at_once_it_is_queued_once(book: Book) -> None:
    scans = [book.reject(seen(f"{number}")) for number in range(20)]
    moved = at_once(*[book.requeue] * 3)
    assert sorted(chain(*moved)) == scans
    assert all(book.moves(scan_id)[3:] == [("rejected", "queued")] for scan_id in scans)


def test_requeue_beside_sweeps_and_workers_reads_each_scan_once(book: Book) -> None:
    scans = [book.reject(seen(f"{number}")) for number in range(30)]

    def sweep() -> None:
        for _ in range(10):
            book.ring(limit=7)

    def work() -> None:
        for _ in range(15):
            if claim := book.claim(4):
                book.finish(claim, *(classified(scan.id) for scan in claim.scans))

    at_once(book.requeue, book.requeue, sweep, sweep, work, work)
    sweep()
    while claim := book.claim(100):
        book.finish(claim, *(classified(scan.id) for scan in claim.scans))
    assert set(book.states().values()) == {"classified"}
    assert [len(book.predictions(scan_id)) for scan_id in scans] == [1] * 30
    assert all([to for _, to in book.moves(scan_id)].count("classified") == 1 for scan_id in scans)


def test_requeue_leaves_what_has_a_result_or_waits(book: Book) -> None:
    (done,) = book.classify(seen("done"))
    (waits,) = book.add(seen("waits"))
    before = book.event_count()
    assert book.requeue(Scan.id.in_([done, waits])) == []
    assert book.event_count() == before


def test_requeued_are_those_that_are_named_or_alike_and_no_others(book: Book) -> None:
    def requeue(**which: Any) -> list[int]:
        return book.database.write(lambda c: transitions.requeue_matching(c, "admin", **which))

    named, unreadable, gone = (book.reject(seen(name)) for name in ("named", "unreadable", "gone"))
    book.set(gone, reason=Reason.VANISHED)
    failed, other = (book.reject(seen(name)) for name in ("failed", "other"))
    book.set(failed, state=State.FAILED)
    book.set(other, reason=Reason.TOO_LARGE)
    assert requeue() == []
    assert requeue(scan_ids=[named], failed=True) == [named, failed]
    assert requeue(reason=Reason.UNREADABLE) == [unreadable]
    assert requeue(scan_ids=[gone, named]) == [gone]  # the other one waits already
    assert book.state(other) == "rejected"
