"""The sweep, with a clock and a bell that the test holds."""

import threading
from collections.abc import Sequence
from datetime import timedelta

import pytest
from books import Book, at_once, classified, deferred, seen

from db.ledger import transitions
from db.ledger.sweep import Sweeper
from db.models import Scan
from db.session import Database
from pneumowatch.errors import BrokerUnavailable

LEASE = 60.0


class Bell:
    """A broker that remembers what was rung, and can be away."""

    def __init__(self) -> None:
        self.rung: list[int] = []
        self.held = 0
        self.away = False

    def announce(self, ids: Sequence[int]) -> None:
        if self.away:
            raise BrokerUnavailable("away")
        self.rung += ids

    def outstanding(self) -> int:
        if self.away:
            raise BrokerUnavailable("away")
        return self.held


class Clock:
    def __init__(self) -> None:
        self.moment = 1000.0

    def __call__(self) -> float:
        return self.moment


@pytest.fixture
def bell() -> Bell:
    return Bell()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sweeper(database: Database, bell: Bell, clock: Clock) -> Sweeper:
    return make(database, bell, clock)


def make(database: Database, bell: Bell, clock: Clock) -> Sweeper:
    return Sweeper(database, bell.announce, bell.outstanding, LEASE, 3, "sweeper", clock)


def long_rung(book: Book, *ids: int) -> None:
    for scan_id in ids:
        book.set(scan_id, announced_at=transitions.utc_now() - timedelta(seconds=2 * LEASE))


def test_a_claim_is_taken_back_after_a_lease_of_the_sweepers_own_time(
    book: Book, sweeper: Sweeper, bell: Bell, clock: Clock
) -> None:
    (scan_id,) = book.add(seen())
    book.claimed()
    for _ in range(6):
        sweeper.sweep()
        assert book.state(scan_id) == "running"
        clock.moment += LEASE / 6 - 0.001
    clock.moment += 0.01
    sweeper.sweep()
    assert (book.state(scan_id), bell.rung) == ("queued", [scan_id])  # and rung in the same sweep
    assert book.row(scan_id)["announced_at"] is not None
    assert book.events(scan_id)[-1]["by"] == "sweeper"


def test_the_times_in_the_row_do_not_count(book: Book, sweeper: Sweeper, clock: Clock) -> None:
    """A worker's clock that is a day behind has given a lease that ran out before it began."""
    (scan_id,) = book.add(seen())
    book.claimed()
    book.set(scan_id, leased_until=transitions.utc_now() - timedelta(days=1))
    sweeper.sweep()
    clock.moment += LEASE - 1
    sweeper.sweep()
    assert book.state(scan_id) == "running"
    clock.moment += 2
    sweeper.sweep()
    assert book.state(scan_id) == "queued"


def test_each_renewal_starts_the_time_anew(book: Book, sweeper: Sweeper, clock: Clock) -> None:
    (scan_id,) = book.add(seen())
    claim = book.claimed()
    for number in range(5):
        sweeper.sweep()
        clock.moment += LEASE - 1
        book.renew(claim, lease=timedelta(seconds=100 + number))
    sweeper.sweep()
    assert book.state(scan_id) == "running"
    clock.moment += LEASE
    sweeper.sweep()
    assert book.state(scan_id) == "queued"


def test_a_new_claim_starts_the_time_anew(book: Book, sweeper: Sweeper, clock: Clock) -> None:
    (scan_id,) = book.add(seen())
    claim = book.claimed()
    sweeper.sweep()
    clock.moment += LEASE - 1
    book.finish(claim, deferred(scan_id))
    book.claimed()
    sweeper.sweep()
    clock.moment += LEASE - 1
    sweeper.sweep()
    assert book.state(scan_id) == "running"


def test_a_sweeper_that_starts_late_waits_a_lease_of_its_own(
    database: Database, book: Book, bell: Bell, clock: Clock
) -> None:
    (scan_id,) = book.add(seen())
    book.claimed()
    clock.moment += 10 * LEASE
    sweeper = make(database, bell, clock)
    sweeper.sweep()
    assert book.state(scan_id) == "running"


def test_a_claim_taken_back_once_is_not_counted_again(book: Book, sweeper: Sweeper, clock: Clock) -> None:
    (scan_id,) = book.add(seen())
    book.claimed()
    sweeper.sweep()
    clock.moment += LEASE
    sweeper.sweep()
    clock.moment += 10 * LEASE
    sweeper.sweep()
    assert book.row(scan_id)["lost_leases"] == 1


def test_the_time_of_an_outage_is_held_against_no_worker(
    book: Book, database: Database, bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the database is away no worker can renew its lease, and the sweep waits for the database as they do."""
    clock = Clock()
    sweeper = make(database, bell, clock)
    (scan_id,) = book.add(seen())
    claim = book.claimed()
    sweeper.sweep()
    for method in ("read", "write"):
        clock.moment += 1
        answered = getattr(database, method)

        def away(work: object, answered: object = answered) -> object:
            clock.moment += 10 * LEASE
            monkeypatch.undo()
            return answered(work)  # type: ignore[operator]

        monkeypatch.setattr(database, method, away)
        sweeper.sweep()
        clock.moment += 1
        sweeper.sweep()
    assert book.state(scan_id) == "running"
    book.finish(claim, classified(scan_id))
    assert book.state(scan_id) == "classified"


def test_what_waits_unannounced_is_rung(book: Book, sweeper: Sweeper, bell: Bell) -> None:
    one, two, announced = book.add(seen("1"), seen("2"), seen("3"))
    book.unring(one, two)
    sweeper.sweep()
    assert bell.rung == [one, two]
    sweeper.sweep()
    assert bell.rung == [one, two]
    assert book.row(announced)["announced_at"] is not None


def test_what_is_not_due_is_not_rung(book: Book, sweeper: Sweeper, bell: Bell) -> None:
    (scan_id,) = book.add(seen())
    book.finish(book.claimed(), deferred(scan_id, seconds=600))
    sweeper.sweep()
    assert bell.rung == []
    book.set(scan_id, not_before=transitions.utc_now() - timedelta(seconds=1))
    sweeper.sweep()
    assert bell.rung == [scan_id]


@pytest.mark.parametrize(("held", "expected"), [(0, True), (1, False)])
def test_lost_messages_are_rung_again_only_when_the_broker_holds_nothing(
    book: Book, sweeper: Sweeper, bell: Bell, clock: Clock, held: int, expected: bool
) -> None:
    scans = book.add(seen("1"), seen("2"))
    long_rung(book, *scans)
    bell.held = held
    clock.moment += LEASE
    sweeper.sweep()
    assert bell.rung == (scans if expected else [])


def test_what_was_rung_within_a_lease_is_not_lost(book: Book, sweeper: Sweeper, bell: Bell, clock: Clock) -> None:
    book.add(seen())
    clock.moment += LEASE
    sweeper.sweep()
    assert bell.rung == []


def test_lost_messages_are_rung_once_a_lease(book: Book, sweeper: Sweeper, bell: Bell, clock: Clock) -> None:
    (scan_id,) = book.add(seen())
    long_rung(book, scan_id)
    for _ in range(5):
        clock.moment += LEASE / 2
        sweeper.sweep()
    assert bell.rung == [scan_id]


def test_a_long_queue_is_rung_in_parts(
    book: Book, sweeper: Sweeper, bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.ledger.sweep.ANNOUNCE_LIMIT", 7)
    scans = book.arrive(*(seen(str(number)) for number in range(30))).to_announce
    book.unring(*scans)
    sweeper.sweep()
    assert sorted(bell.rung) == sorted(scans)


def test_a_broker_that_is_away_leaves_rows_unannounced(book: Book, sweeper: Sweeper, bell: Bell, clock: Clock) -> None:
    one, two = book.add(seen("1"), seen("2"))
    book.unring(one)
    long_rung(book, two)
    bell.away = True
    clock.moment += LEASE
    sweeper.sweep()
    assert book.row(one)["announced_at"] is None
    bell.away = False
    clock.moment += LEASE
    sweeper.sweep()
    assert bell.rung == [one, two]


def test_a_broker_that_is_away_does_not_keep_claims_from_being_taken_back(
    book: Book, sweeper: Sweeper, bell: Bell, clock: Clock
) -> None:
    (scan_id,) = book.add(seen())
    book.claimed()
    bell.away = True
    sweeper.sweep()
    clock.moment += LEASE
    sweeper.sweep()
    assert book.state(scan_id) == "queued"
    assert book.row(scan_id)["announced_at"] is None


def test_two_sweepers_at_once_do_the_work_of_one(book: Book, database: Database, clock: Clock) -> None:
    held = book.arrive(*(seen(str(number)) for number in range(20))).to_announce
    book.claimed()
    bells = [Bell(), Bell()]
    sweepers = [make(database, bell, clock) for bell in bells]
    for sweeper in sweepers:
        sweeper.sweep()
    clock.moment += LEASE
    at_once(*(sweeper.sweep for sweeper in sweepers))
    assert sorted(bells[0].rung + bells[1].rung) == sorted(held)
    assert {book.row(scan_id)["lost_leases"] for scan_id in held} == {1}
    assert all(len(book.moves(scan_id)) == 3 for scan_id in held)


def test_run_ends_when_asked(book: Book, sweeper: Sweeper, bell: Bell) -> None:
    (scan_id,) = book.add(seen())
    book.unring(scan_id)
    stop = threading.Event()
    stop.set()
    sweeper.run(stop, 3600)
    assert bell.rung == [scan_id]
    assert book.ring(Scan.id == scan_id) == [scan_id]
