"""Outcomes of claimed scans: each recorded once, by its holder alone, and duplicates found by their content."""

import itertools
import threading
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError
from support.ledger_driver import (
    MODEL,
    LedgerDriver,
    classified,
    deferred,
    file_version,
    rejected,
    run_concurrently,
    wait_until_another_waits,
)

from db.ledger import transitions
from db.ledger.outcomes import Classified, Outcome
from db.states import Reason
from pneumowatch.header import Header

SAME = "5" * 64
READ = [(None, "queued"), ("queued", "running")]


def test_classified(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.add(file_version())
    probability = 0.1 + 0.2  # a number that needs all its digits
    outcome = replace(classified(scan_id, SAME, probability), caution="age")
    ledger.finish(ledger.claimed(), outcome)
    row = ledger.row(scan_id)
    assert (row["state"], row["sha256"], row["probability"], row["flagged"]) == ("classified", SAME, probability, True)
    assert (row["threshold"], row["model_version"], row["caution"]) == (0.5, MODEL, "age")
    assert (row["claim_token"], row["leased_until"], row["duplicate_of"]) == (None, None, None)
    assert row["finished_at"] >= row["received_at"]
    (prediction,) = ledger.predictions(scan_id)
    assert (prediction["probability"], prediction["current"], prediction["flagged"]) == (probability, True, True)
    assert ledger.owners() == {SAME: scan_id}
    assert ledger.moves(scan_id) == [*READ, ("running", "classified")]


@pytest.mark.parametrize("probability", [0.0, 1.0, 5e-324, 1 - 2**-53])
def test_probabilities_keep_all_their_bits(ledger: LedgerDriver, probability: float) -> None:
    (scan_id,) = ledger.add(file_version())
    ledger.finish(ledger.claimed(), classified(scan_id, probability=probability, flagged=False))
    assert ledger.row(scan_id)["probability"] == probability
    assert ledger.row(scan_id)["flagged"] is False


def test_rejected(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.add(file_version())
    ledger.finish(ledger.claimed(), replace(rejected(scan_id, Reason.EMPTY), sha256=SAME))
    row = ledger.row(scan_id)
    assert (row["state"], row["reason"], row["detail"], row["sha256"]) == ("rejected", "empty", "A sentence.", SAME)
    assert (row["claim_token"], row["probability"]) == (None, None)
    assert row["finished_at"] is not None
    assert ledger.owners() == {}  # only classified scans own bytes
    assert ledger.moves(scan_id) == [*READ, ("running", "rejected")]


def test_deferred(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.add(file_version())
    outcome = deferred(scan_id, seconds=5)
    ledger.finish(ledger.claimed(), outcome)
    row = ledger.row(scan_id)
    assert (row["state"], row["not_before"], row["announced_at"]) == ("queued", outcome.not_before, None)
    assert (row["claim_token"], row["claimed_by"], row["leased_until"]) == (None, None, None)
    assert (row["lost_leases"], row["size"], row["finished_at"]) == (0, 100, None)
    assert ledger.moves(scan_id) == [*READ, ("running", "queued")]


def test_deferred_as_the_file_has_changed(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.add(file_version())
    before = ledger.row(scan_id)
    ledger.finish(ledger.claimed(), deferred(scan_id, size=200, mtime_ns=2))
    row = ledger.row(scan_id)
    assert (row["state"], row["size"], row["mtime_ns"]) == ("queued", 200, 2)
    assert row["changed_at"] > before["changed_at"]
    assert ledger.unregistered(file_version(size=200, mtime_ns=2)) == []


def test_deferred_with_an_empty_file(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.add(file_version())
    ledger.finish(ledger.claimed(), deferred(scan_id, size=0, mtime_ns=0))
    assert (ledger.row(scan_id)["size"], ledger.row(scan_id)["mtime_ns"]) == (0, 0)


def test_a_whole_batch_of_every_outcome(ledger: LedgerDriver) -> None:
    one, two, three, four = ledger.add(*(file_version(name) for name in "1234"))
    ledger.finish(ledger.claimed(), rejected(three), classified(one, SAME), deferred(four), classified(two, SAME))
    assert ledger.states() == {one: "classified", two: "duplicate", three: "rejected", four: "queued"}
    assert [len(ledger.moves(scan_id)) for scan_id in (one, two, three, four)] == [3, 3, 3, 3]


def test_duplicates_in_one_batch(ledger: LedgerDriver) -> None:
    one, two, three = ledger.add(file_version("1"), file_version("2"), file_version("3"))
    ledger.finish(ledger.claimed(), *(classified(scan_id, SAME) for scan_id in (three, one, two)))
    assert ledger.states() == {one: "classified", two: "duplicate", three: "duplicate"}
    assert [ledger.row(scan_id)["duplicate_of"] for scan_id in (one, two, three)] == [None, one, one]
    assert ledger.moves(two) == [*READ, ("running", "duplicate")]
    assert ledger.predictions(two) == []
    assert ledger.row(two)["sha256"] == SAME


def test_a_duplicate_of_a_scan_classified_long_ago(ledger: LedgerDriver) -> None:
    (original,) = ledger.classify(file_version("1"), sha256=SAME)
    (duplicate,) = ledger.classify(file_version("2"), sha256=SAME)
    assert (ledger.state(duplicate), ledger.row(duplicate)["duplicate_of"]) == ("duplicate", original)


def test_a_duplicate_of_a_rejected_scan_is_classified(ledger: LedgerDriver) -> None:
    first = ledger.reject(file_version("1"))
    (second,) = ledger.classify(file_version("2"), sha256=SAME)
    assert ledger.states() == {first: "rejected", second: "classified"}


def test_duplicates_in_two_claims_at_once(ledger: LedgerDriver) -> None:
    pairs = 10
    ledger.register(*(file_version(f"{number}") for number in range(2 * pairs)))
    one, two = ledger.claimed(pairs), ledger.claimed(pairs)
    hashes = [f"{number:064x}" for number in range(pairs)]

    def outcomes(claim: object, order: list[str]) -> list[Outcome]:
        return [classified(scan.id, sha256) for scan, sha256 in zip(claim.scans, order, strict=True)]  # type: ignore[attr-defined]

    run_concurrently(
        lambda: ledger.finish(one, *outcomes(one, hashes)),
        lambda: ledger.finish(two, *outcomes(two, hashes[::-1])),
    )
    states = list(ledger.states().values())
    assert (states.count("classified"), states.count("duplicate")) == (pairs, pairs)
    owners = ledger.owners()
    for scan_id, state in ledger.states().items():
        row = ledger.row(scan_id)
        owner = owners[row["sha256"]]
        assert (row["duplicate_of"] or scan_id) == owner
        assert state == ("classified" if owner == scan_id else "duplicate")


HEADER = Header(
    study_uid="1.2.3",
    series_uid="1.2.3.4",
    sop_uid="1.2.3.4.5",
    accession_number="A 0001",
    modality="DX",
    view_position="PA",
    age_years=4.25,
    sex="F",
    patient_key="c" * 64,
    pixels_sha256="d" * 64,
)
KEPT = {name: value for name, value in vars(HEADER).items() if name != "pixels_sha256"}


def dicom(scan_id: int, sha256: str, **header: Any) -> Classified:
    return replace(classified(scan_id, sha256), header=replace(HEADER, **header))


def kept(ledger: LedgerDriver, scan_id: int) -> dict[str, Any]:
    return {name: value for name, value in ledger.row(scan_id).items() if name in KEPT}


def test_what_a_header_says_stands_in_the_row(ledger: LedgerDriver) -> None:
    """So for every outcome; images without a header in the same batch have none."""
    one, two, three, four = ledger.add(*(file_version(name) for name in "1234"))
    outcomes = [
        dicom(one, "1" * 64),
        dicom(two, "2" * 64),
        replace(rejected(three), header=HEADER),
        classified(four),
    ]
    ledger.finish(ledger.claimed(), *outcomes)
    assert list(ledger.states().values()) == ["classified", "duplicate", "rejected", "classified"]
    assert [kept(ledger, scan_id) for scan_id in (one, two, three)] == [KEPT] * 3
    assert kept(ledger, four) == dict.fromkeys(KEPT)


def test_no_event_tells_what_a_header_says(ledger: LedgerDriver) -> None:
    one, two, three = ledger.add(*(file_version(name) for name in "123"))
    ledger.finish(ledger.claimed(), dicom(one, "1" * 64), dicom(two, "2" * 64), replace(rejected(three), header=HEADER))
    told = str([ledger.events(scan_id) for scan_id in (one, two, three)])
    assert not [value for value in KEPT.values() if str(value) in told and len(str(value)) > 2]


def test_an_image_read_again_after_requeue_keeps_no_header_of_another(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.add(file_version())
    ledger.finish(ledger.claimed(), replace(rejected(scan_id), header=HEADER))
    ledger.requeue()
    ledger.finish(ledger.claimed(), classified(scan_id))
    assert kept(ledger, scan_id) == dict.fromkeys(KEPT)


def test_the_same_instance_with_the_same_pixels_is_a_duplicate_whatever_its_bytes(ledger: LedgerDriver) -> None:
    original, resent, third, fourth = ledger.add(*(file_version(name) for name in "1234"))
    ledger.finish(ledger.claimed(1), dicom(original, "1" * 64))
    ledger.finish(ledger.claimed(1), dicom(resent, "2" * 64, accession_number="A 0002"))
    ledger.finish(ledger.claimed(1), dicom(third, "2" * 64))  # the bytes of one that is no original itself
    ledger.finish(ledger.claimed(1), classified(fourth, "2" * 64))  # even where its header could not be read
    assert [ledger.row(scan_id)["duplicate_of"] for scan_id in (original, resent, third, fourth)] == [
        None,
        *[original] * 3,
    ]
    assert ledger.row(resent)["accession_number"] == "A 0002"
    assert ledger.row(resent)["sha256"] == "2" * 64
    assert ledger.moves(resent) == [*READ, ("running", "duplicate")]
    assert [ledger.predictions(scan_id) for scan_id in (resent, third, fourth)] == [[], [], []]
    assert set(ledger.owners().values()) == {original}


@pytest.mark.parametrize(
    "other",
    [
        {"sop_uid": "1.2.3.4.6"},  # two images that happen to be equal, as black ones are
        {"pixels_sha256": "e" * 64},  # a machine that uses an instance's UID twice
        {"sop_uid": None},
        {"pixels_sha256": None},
    ],
    ids=str,
)
def test_half_of_an_instance_makes_no_duplicate(ledger: LedgerDriver, other: dict[str, Any]) -> None:
    one, two, three = ledger.add(file_version("1"), file_version("2"), file_version("3"))
    ledger.finish(ledger.claimed(2), dicom(one, "1" * 64), dicom(two, "2" * 64, **other))
    ledger.finish(ledger.claimed(), dicom(three, "3" * 64, **other))
    identified = {"sop_uid", "pixels_sha256"} & {name for name, value in other.items() if value is not None}
    assert list(ledger.states().values()) == ["classified", "classified", "duplicate" if identified else "classified"]


def test_instances_sent_twice_in_one_batch(ledger: LedgerDriver) -> None:
    """With the same bytes, and with others; the first of them is the original."""
    scans = ledger.add(*(file_version(name) for name in "12345"))
    hashes = ["9" * 64, "9" * 64, "1" * 64, "5" * 64, "1" * 64]
    outcomes = [dicom(*pair) for pair in zip(scans, hashes, strict=True)]
    ledger.finish(ledger.claimed(), *outcomes[::-1])
    assert [ledger.row(scan_id)["duplicate_of"] for scan_id in scans] == [None, *[scans[0]] * 4]


def test_bytes_that_were_read_without_their_header_lead_to_their_first_reader(ledger: LedgerDriver) -> None:
    """An earlier version read them. Their instance stays free for the first image that is an original."""
    old, again, other = ledger.add(*(file_version(name) for name in "123"))
    ledger.finish(ledger.claimed(1), classified(old, "1" * 64))
    ledger.finish(ledger.claimed(1), dicom(again, "1" * 64))
    ledger.finish(ledger.claimed(1), dicom(other, "2" * 64))
    assert ledger.states() == {old: "classified", again: "duplicate", other: "classified"}
    assert all(ledger.state(owner) == "classified" for owner in ledger.owners().values())


def test_instances_sent_twice_in_two_claims_at_once(ledger: LedgerDriver) -> None:
    pairs = 12
    ledger.register(*(file_version(f"{number}") for number in range(2 * pairs)))
    claims = [ledger.claimed(pairs), ledger.claimed(pairs)]

    def outcomes(worker: int) -> list[Outcome]:
        """Return the same instances for both, every third with the same bytes, in opposite orders."""
        made = [
            dicom(scan.id, f"{number + (0 if number % 3 == 0 else 1000 * (worker + 1)):064x}", sop_uid=f"1.{number}")
            for number, scan in enumerate(claims[worker].scans)
        ]
        return [*made[::-1]] if worker else [*made]

    run_concurrently(*(lambda worker=worker: ledger.finish(claims[worker], *outcomes(worker)) for worker in (0, 1)))
    assert sorted(ledger.states().values()) == ["classified"] * pairs + ["duplicate"] * pairs
    owners = ledger.owners()
    for number, duplicates in enumerate(zip(*(claim.scans for claim in claims), strict=True)):
        rows = [ledger.row(scan.id) for scan in duplicates]
        (original,) = [row for row in rows if row["state"] == "classified"]
        (duplicate,) = [row for row in rows if row["state"] == "duplicate"]
        assert duplicate["duplicate_of"] == original["id"], number
        assert {owners[row["sha256"]] for row in rows} == {original["id"]}


def test_the_loser_of_a_race_waits_for_the_instance_and_is_the_duplicate(ledger: LedgerDriver) -> None:
    """The winner has written its keys, but not yet committed, when the other brings the same instance."""
    one, two = ledger.add(file_version("1"), file_version("2"))
    winner, loser = ledger.claimed(1), ledger.claimed(1)
    written = threading.Event()

    def win(connection: Connection) -> None:
        transitions.record_outcomes(connection, winner.token, [dicom(one, "9" * 64)], "worker")
        written.set()
        wait_until_another_waits(connection)

    def lose() -> None:
        assert written.wait(60)
        ledger.finish(loser, dicom(two, "1" * 64))

    run_concurrently(lambda: ledger.database.write(win), lose)
    assert ledger.states() == {one: "classified", two: "duplicate"}
    assert set(ledger.owners().values()) == {one}


def test_a_token_that_is_not_the_holders_changes_nothing(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.add(file_version())
    ledger.claimed()
    before, events = ledger.row(scan_id), ledger.event_count()
    for outcome in (classified(scan_id), rejected(scan_id), deferred(scan_id)):
        ledger.finish("0" * 32, outcome)
    assert (ledger.row(scan_id), ledger.event_count()) == (before, events)
    assert ledger.owners() == {}
    assert ledger.predictions(scan_id) == []


def test_a_worker_that_lost_its_claim_changes_nothing(ledger: LedgerDriver) -> None:
    one, two = ledger.add(file_version("1"), file_version("2"))
    lost = ledger.claimed()
    ledger.finish(lost, rejected(two))
    ledger.expire(lost)
    ledger.finish(lost, classified(one), classified(two))
    assert ledger.states() == {one: "queued", two: "rejected"}
    assert ledger.owners() == {}


@pytest.mark.parametrize(
    ("first", "second"), [*itertools.permutations([classified, rejected, deferred], 2)], ids=lambda make: make.__name__
)
def test_finished_twice_changes_nothing(ledger: LedgerDriver, first: type[Outcome], second: type[Outcome]) -> None:
    (scan_id,) = ledger.add(file_version())
    claim = ledger.claimed()
    ledger.finish(claim, first(scan_id))
    before, events = ledger.row(scan_id), ledger.event_count()
    ledger.finish(claim, second(scan_id))
    ledger.finish(claim, first(scan_id))
    assert (ledger.row(scan_id), ledger.event_count()) == (before, events)


def test_finish_and_expire_at_once_have_one_winner(ledger: LedgerDriver) -> None:
    scans = ledger.register(*(file_version(f"{number}") for number in range(30))).to_announce
    claim = ledger.claimed()
    run_concurrently(lambda: ledger.finish(claim, *map(classified, scans)), lambda: ledger.expire(claim))
    for scan_id in scans:
        assert len(ledger.moves(scan_id)) == 3
        assert ledger.state(scan_id) == ledger.moves(scan_id)[-1][1]
    assert set(ledger.states().values()) <= {"classified", "queued"}


def test_nothing_to_finish(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.add(file_version())
    ledger.finish(ledger.claimed())
    assert ledger.state(scan_id) == "running"


def test_a_batch_is_all_or_nothing(ledger: LedgerDriver) -> None:
    """The model is not registered: no outcome of the batch may be recorded, nor an event of one."""
    one, two = ledger.add(file_version("1"), file_version("2"))
    claim = ledger.claimed()
    with pytest.raises(IntegrityError):
        ledger.finish(claim, rejected(one), replace(classified(two), model_version="unknown"))
    assert ledger.states() == {one: "running", two: "running"}
    assert (ledger.event_count(), ledger.owners()) == (4, {})


def test_events_say_who_when_and_why(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.add(file_version())
    started = transitions.utc_now()
    ledger.finish(ledger.claimed(), deferred(scan_id))
    arrived, claimed_, put_back = ledger.events(scan_id)
    assert (arrived["by"], claimed_["by"], put_back["by"]) == ("test", "worker", "worker")
    assert put_back["detail"] == "later"
    assert timedelta(0) <= put_back["at"] - started < timedelta(minutes=1)


def test_a_scan_read_again_after_requeue_keeps_no_trace_of_its_rejection(ledger: LedgerDriver) -> None:
    scan_id = ledger.reject(file_version())
    ledger.requeue()
    ledger.finish(ledger.claimed(), classified(scan_id))
    row = ledger.row(scan_id)
    assert (row["state"], row["reason"], row["detail"]) == ("classified", None, None)


def test_a_version_that_comes_back_before_it_was_ever_read_is_read(ledger: LedgerDriver) -> None:
    """The first version of an image returns, so its second is rejected unread; then the second is back."""
    first, second, third = (file_version(size=size) for size in (1, 2, 3))
    ledger.classify(first)
    (unread,) = ledger.add(second)
    ledger.finish(ledger.claimed(), deferred(unread, size=1, mtime_ns=1))
    assert (ledger.state(unread), ledger.row(unread)["reason"]) == ("rejected", "superseded")
    (newest,) = ledger.add(third)
    claim = ledger.claimed()
    ledger.register(second)
    ledger.finish(claim, deferred(newest, size=2, mtime_ns=1))
    assert (ledger.state(unread), ledger.row(unread)["superseded_by"]) == ("queued", None)
    assert ledger.unregistered(second) == []
