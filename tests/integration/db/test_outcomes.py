"""What becomes of a claimed scan: each outcome once, by its holder alone, and twins told by their content."""

import itertools
import threading
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from books import MODEL, Book, at_once, classified, deferred, rejected, seen, wait_until_another_waits
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from db.ledger import transitions
from db.ledger.outcomes import Classified, Outcome
from db.states import Reason
from pneumowatch.header import Header

SAME = "5" * 64
READ = [(None, "queued"), ("queued", "running")]


def test_classified(book: Book) -> None:
    (scan_id,) = book.add(seen())
    probability = 0.1 + 0.2  # a number that needs all its digits
    outcome = replace(classified(scan_id, SAME, probability), caution="age")
    book.finish(book.claimed(), outcome)
    row = book.row(scan_id)
    assert (row["state"], row["sha256"], row["probability"], row["flagged"]) == ("classified", SAME, probability, True)
    assert (row["threshold"], row["model_version"], row["caution"]) == (0.5, MODEL, "age")
    assert (row["claim_token"], row["leased_until"], row["duplicate_of"]) == (None, None, None)
    assert row["finished_at"] >= row["received_at"]
    (prediction,) = book.predictions(scan_id)
    assert (prediction["probability"], prediction["current"], prediction["flagged"]) == (probability, True, True)
    assert book.owners() == {SAME: scan_id}
    assert book.moves(scan_id) == [*READ, ("running", "classified")]


@pytest.mark.parametrize("probability", [0.0, 1.0, 5e-324, 1 - 2**-53])
def test_probabilities_keep_all_their_bits(book: Book, probability: float) -> None:
    (scan_id,) = book.add(seen())
    book.finish(book.claimed(), classified(scan_id, probability=probability, flagged=False))
    assert book.row(scan_id)["probability"] == probability
    assert book.row(scan_id)["flagged"] is False


def test_rejected(book: Book) -> None:
    (scan_id,) = book.add(seen())
    book.finish(book.claimed(), replace(rejected(scan_id, Reason.EMPTY), sha256=SAME))
    row = book.row(scan_id)
    assert (row["state"], row["reason"], row["detail"], row["sha256"]) == ("rejected", "empty", "A sentence.", SAME)
    assert (row["claim_token"], row["probability"]) == (None, None)
    assert row["finished_at"] is not None
    assert book.owners() == {}  # only classified scans own bytes
    assert book.moves(scan_id) == [*READ, ("running", "rejected")]


def test_deferred(book: Book) -> None:
    (scan_id,) = book.add(seen())
    outcome = deferred(scan_id, seconds=5)
    book.finish(book.claimed(), outcome)
    row = book.row(scan_id)
    assert (row["state"], row["not_before"], row["announced_at"]) == ("queued", outcome.not_before, None)
    assert (row["claim_token"], row["claimed_by"], row["leased_until"]) == (None, None, None)
    assert (row["lost_leases"], row["size"], row["finished_at"]) == (0, 100, None)
    assert book.moves(scan_id) == [*READ, ("running", "queued")]


def test_deferred_as_the_file_has_changed(book: Book) -> None:
    (scan_id,) = book.add(seen())
    before = book.row(scan_id)
    book.finish(book.claimed(), deferred(scan_id, size=200, mtime_ns=2))
    row = book.row(scan_id)
    assert (row["state"], row["size"], row["mtime_ns"]) == ("queued", 200, 2)
    assert row["changed_at"] > before["changed_at"]
    assert book.unknown(seen(size=200, mtime_ns=2)) == []


def test_deferred_with_an_empty_file(book: Book) -> None:
    (scan_id,) = book.add(seen())
    book.finish(book.claimed(), deferred(scan_id, size=0, mtime_ns=0))
    assert (book.row(scan_id)["size"], book.row(scan_id)["mtime_ns"]) == (0, 0)


def test_a_whole_batch_of_every_outcome(book: Book) -> None:
    one, two, three, four = book.add(*(seen(name) for name in "1234"))
    book.finish(book.claimed(), rejected(three), classified(one, SAME), deferred(four), classified(two, SAME))
    assert book.states() == {one: "classified", two: "duplicate", three: "rejected", four: "queued"}
    assert [len(book.moves(scan_id)) for scan_id in (one, two, three, four)] == [3, 3, 3, 3]


def test_twins_in_one_batch(book: Book) -> None:
    one, two, three = book.add(seen("1"), seen("2"), seen("3"))
    book.finish(book.claimed(), *(classified(scan_id, SAME) for scan_id in (three, one, two)))
    assert book.states() == {one: "classified", two: "duplicate", three: "duplicate"}
    assert [book.row(scan_id)["duplicate_of"] for scan_id in (one, two, three)] == [None, one, one]
    assert book.moves(two) == [*READ, ("running", "duplicate")]
    assert book.predictions(two) == []
    assert book.row(two)["sha256"] == SAME


def test_a_twin_of_a_scan_classified_long_ago(book: Book) -> None:
    (original,) = book.classify(seen("1"), sha256=SAME)
    (twin,) = book.classify(seen("2"), sha256=SAME)
    assert (book.state(twin), book.row(twin)["duplicate_of"]) == ("duplicate", original)


def test_a_twin_of_a_rejected_scan_is_classified(book: Book) -> None:
    first = book.reject(seen("1"))
    (second,) = book.classify(seen("2"), sha256=SAME)
    assert book.states() == {first: "rejected", second: "classified"}


def test_twins_in_two_claims_at_once(book: Book) -> None:
    pairs = 10
    book.arrive(*(seen(f"{number}") for number in range(2 * pairs)))
    one, two = book.claimed(pairs), book.claimed(pairs)
    hashes = [f"{number:064x}" for number in range(pairs)]

    def outcomes(claim: object, order: list[str]) -> list[Outcome]:
        return [classified(scan.id, sha256) for scan, sha256 in zip(claim.scans, order, strict=True)]  # type: ignore[attr-defined]

    at_once(
        lambda: book.finish(one, *outcomes(one, hashes)),
        lambda: book.finish(two, *outcomes(two, hashes[::-1])),
    )
    states = list(book.states().values())
    assert (states.count("classified"), states.count("duplicate")) == (pairs, pairs)
    owners = book.owners()
    for scan_id, state in book.states().items():
        row = book.row(scan_id)
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


def kept(book: Book, scan_id: int) -> dict[str, Any]:
    return {name: value for name, value in book.row(scan_id).items() if name in KEPT}


def test_what_a_header_says_stands_in_the_row(book: Book) -> None:
    """Of every outcome; and films without a header in the same batch have none."""
    one, two, three, four = book.add(*(seen(name) for name in "1234"))
    outcomes = [
        dicom(one, "1" * 64),
        dicom(two, "2" * 64),
        replace(rejected(three), header=HEADER),
        classified(four),
    ]
    book.finish(book.claimed(), *outcomes)
    assert list(book.states().values()) == ["classified", "duplicate", "rejected", "classified"]
    assert [kept(book, scan_id) for scan_id in (one, two, three)] == [KEPT] * 3
    assert kept(book, four) == dict.fromkeys(KEPT)


def test_no_event_tells_what_a_header_says(book: Book) -> None:
    one, two, three = book.add(*(seen(name) for name in "123"))
    book.finish(book.claimed(), dicom(one, "1" * 64), dicom(two, "2" * 64), replace(rejected(three), header=HEADER))
    told = str([book.events(scan_id) for scan_id in (one, two, three)])
    assert not [value for value in KEPT.values() if str(value) in told and len(str(value)) > 2]


def test_a_film_read_again_after_requeue_keeps_no_header_of_another(book: Book) -> None:
    (scan_id,) = book.add(seen())
    book.finish(book.claimed(), replace(rejected(scan_id), header=HEADER))
    book.requeue()
    book.finish(book.claimed(), classified(scan_id))
    assert kept(book, scan_id) == dict.fromkeys(KEPT)


def test_the_same_instance_with_the_same_pixels_is_a_duplicate_whatever_its_bytes(book: Book) -> None:
    original, resent, third, fourth = book.add(*(seen(name) for name in "1234"))
    book.finish(book.claimed(1), dicom(original, "1" * 64))
    book.finish(book.claimed(1), dicom(resent, "2" * 64, accession_number="A 0002"))
    book.finish(book.claimed(1), dicom(third, "2" * 64))  # the bytes of one that is no original itself
    book.finish(book.claimed(1), classified(fourth, "2" * 64))  # even where its header could not be read
    assert [book.row(scan_id)["duplicate_of"] for scan_id in (original, resent, third, fourth)] == [
        None,
        *[original] * 3,
    ]
    assert book.row(resent)["accession_number"] == "A 0002"
    assert book.row(resent)["sha256"] == "2" * 64
    assert book.moves(resent) == [*READ, ("running", "duplicate")]
    assert [book.predictions(scan_id) for scan_id in (resent, third, fourth)] == [[], [], []]
    assert set(book.owners().values()) == {original}


@pytest.mark.parametrize(
    "other",
    [
        {"sop_uid": "1.2.3.4.6"},  # two films that happen to be equal, as black ones are
        {"pixels_sha256": "e" * 64},  # a machine that uses an instance's UID twice
        {"sop_uid": None},
        {"pixels_sha256": None},
    ],
    ids=str,
)
def test_half_of_an_instance_makes_no_duplicate(book: Book, other: dict[str, Any]) -> None:
    one, two, three = book.add(seen("1"), seen("2"), seen("3"))
    book.finish(book.claimed(2), dicom(one, "1" * 64), dicom(two, "2" * 64, **other))
    book.finish(book.claimed(), dicom(three, "3" * 64, **other))
    identified = {"sop_uid", "pixels_sha256"} & {name for name, value in other.items() if value is not None}
    assert list(book.states().values()) == ["classified", "classified", "duplicate" if identified else "classified"]


def test_instances_sent_twice_in_one_batch(book: Book) -> None:
    """With the same bytes, and with others; the first of them is the original."""
    scans = book.add(*(seen(name) for name in "12345"))
    hashes = ["9" * 64, "9" * 64, "1" * 64, "5" * 64, "1" * 64]
    outcomes = [dicom(*pair) for pair in zip(scans, hashes, strict=True)]
    book.finish(book.claimed(), *outcomes[::-1])
    assert [book.row(scan_id)["duplicate_of"] for scan_id in scans] == [None, *[scans[0]] * 4]


def test_bytes_that_were_read_without_their_header_lead_to_their_first_reader(book: Book) -> None:
    """By an earlier version, say. Their instance stays free for the first film that is an original."""
    old, again, other = book.add(*(seen(name) for name in "123"))
    book.finish(book.claimed(1), classified(old, "1" * 64))
    book.finish(book.claimed(1), dicom(again, "1" * 64))
    book.finish(book.claimed(1), dicom(other, "2" * 64))
    assert book.states() == {old: "classified", again: "duplicate", other: "classified"}
    assert all(book.state(owner) == "classified" for owner in book.owners().values())


def test_instances_sent_twice_in_two_claims_at_once(book: Book) -> None:
    pairs = 12
    book.arrive(*(seen(f"{number}") for number in range(2 * pairs)))
    claims = [book.claimed(pairs), book.claimed(pairs)]

    def outcomes(worker: int) -> list[Outcome]:
        """The same instances in both, every third with the same bytes; in opposite orders."""
        made = [
            dicom(scan.id, f"{number + (0 if number % 3 == 0 else 1000 * (worker + 1)):064x}", sop_uid=f"1.{number}")
            for number, scan in enumerate(claims[worker].scans)
        ]
        return [*made[::-1]] if worker else [*made]

    at_once(*(lambda worker=worker: book.finish(claims[worker], *outcomes(worker)) for worker in (0, 1)))
    assert sorted(book.states().values()) == ["classified"] * pairs + ["duplicate"] * pairs
    owners = book.owners()
    for number, twins in enumerate(zip(*(claim.scans for claim in claims), strict=True)):
        rows = [book.row(scan.id) for scan in twins]
        (original,) = [row for row in rows if row["state"] == "classified"]
        (twin,) = [row for row in rows if row["state"] == "duplicate"]
        assert twin["duplicate_of"] == original["id"], number
        assert {owners[row["sha256"]] for row in rows} == {original["id"]}


def test_the_loser_of_a_race_waits_for_the_instance_and_is_the_duplicate(book: Book) -> None:
    """The winner has written its keys, but not yet committed, when the other brings the same instance."""
    one, two = book.add(seen("1"), seen("2"))
    winner, loser = book.claimed(1), book.claimed(1)
    written = threading.Event()

    def win(connection: Connection) -> None:
        transitions.record_outcomes(connection, winner.token, [dicom(one, "9" * 64)], "worker")
        written.set()
        wait_until_another_waits(connection)

    def lose() -> None:
        assert written.wait(60)
        book.finish(loser, dicom(two, "1" * 64))

    at_once(lambda: book.database.write(win), lose)
    assert book.states() == {one: "classified", two: "duplicate"}
    assert set(book.owners().values()) == {one}


def test_a_token_that_is_not_the_holders_changes_nothing(book: Book) -> None:
    (scan_id,) = book.add(seen())
    book.claimed()
    before, events = book.row(scan_id), book.event_count()
    for outcome in (classified(scan_id), rejected(scan_id), deferred(scan_id)):
        book.finish("0" * 32, outcome)
    assert (book.row(scan_id), book.event_count()) == (before, events)
    assert book.owners() == {}
    assert book.predictions(scan_id) == []


def test_a_worker_that_lost_its_claim_changes_nothing(book: Book) -> None:
    one, two = book.add(seen("1"), seen("2"))
    lost = book.claimed()
    book.finish(lost, rejected(two))
    book.expire(lost)
    book.finish(lost, classified(one), classified(two))
    assert book.states() == {one: "queued", two: "rejected"}
    assert book.owners() == {}


@pytest.mark.parametrize(
    ("first", "second"), [*itertools.permutations([classified, rejected, deferred], 2)], ids=lambda make: make.__name__
)
def test_finished_twice_changes_nothing(book: Book, first: type[Outcome], second: type[Outcome]) -> None:
    (scan_id,) = book.add(seen())
    claim = book.claimed()
    book.finish(claim, first(scan_id))
    before, events = book.row(scan_id), book.event_count()
    book.finish(claim, second(scan_id))
    book.finish(claim, first(scan_id))
    assert (book.row(scan_id), book.event_count()) == (before, events)


def test_finish_and_expire_at_once_have_one_winner(book: Book) -> None:
    scans = book.arrive(*(seen(f"{number}") for number in range(30))).to_announce
    claim = book.claimed()
    at_once(lambda: book.finish(claim, *map(classified, scans)), lambda: book.expire(claim))
    for scan_id in scans:
        assert len(book.moves(scan_id)) == 3
        assert book.state(scan_id) == book.moves(scan_id)[-1][1]
    assert set(book.states().values()) <= {"classified", "queued"}


def test_nothing_to_finish(book: Book) -> None:
    (scan_id,) = book.add(seen())
    book.finish(book.claimed())
    assert book.state(scan_id) == "running"


def test_a_batch_is_all_or_nothing(book: Book) -> None:
    """A model that nobody registered: no outcome of the batch may stand, nor an event of one."""
    one, two = book.add(seen("1"), seen("2"))
    claim = book.claimed()
    with pytest.raises(IntegrityError):
        book.finish(claim, rejected(one), replace(classified(two), model_version="unknown"))
    assert book.states() == {one: "running", two: "running"}
    assert (book.event_count(), book.owners()) == (4, {})


def test_events_say_who_when_and_why(book: Book) -> None:
    (scan_id,) = book.add(seen())
    started = transitions.utc_now()
    book.finish(book.claimed(), deferred(scan_id))
    arrived, claimed_, put_back = book.events(scan_id)
    assert (arrived["by"], claimed_["by"], put_back["by"]) == ("test", "worker", "worker")
    assert put_back["detail"] == "later"
    assert timedelta(0) <= put_back["at"] - started < timedelta(minutes=1)


def test_a_scan_read_again_after_requeue_keeps_no_trace_of_its_rejection(book: Book) -> None:
    scan_id = book.reject(seen())
    book.requeue()
    book.finish(book.claimed(), classified(scan_id))
    row = book.row(scan_id)
    assert (row["state"], row["reason"], row["detail"]) == ("classified", None, None)


def test_a_version_that_comes_back_before_it_was_ever_read_is_read(book: Book) -> None:
    """The first version of a film returns, so its second is rejected unread; then that one stands there again."""
    first, second, third = (seen(size=size) for size in (1, 2, 3))
    book.classify(first)
    (unread,) = book.add(second)
    book.finish(book.claimed(), deferred(unread, size=1, mtime_ns=1))
    assert (book.state(unread), book.row(unread)["reason"]) == ("rejected", "superseded")
    (newest,) = book.add(third)
    claim = book.claimed()
    book.arrive(second)
    book.finish(claim, deferred(newest, size=2, mtime_ns=1))
    assert (book.state(unread), book.row(unread)["superseded_by"]) == ("queued", None)
    assert book.unknown(second) == []
