"""The sweep, with a clock and an announcer that the test controls."""

import threading
from datetime import timedelta

import pytest
from support.fake_announcer import FakeAnnouncer
from support.ledger_driver import LedgerDriver, classified, deferred, file_version, run_concurrently

from db.ledger import transitions
from db.ledger.sweep import Sweeper
from db.models import Scan
from db.session import Database

LEASE = 60.0


class Clock:
    def __init__(self) -> None:
        self.moment = 1000.0

    def __call__(self) -> float:
        return self.moment


@pytest.fixture
def announcer() -> FakeAnnouncer:
    return FakeAnnouncer()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sweeper(database: Database, announcer: FakeAnnouncer, clock: Clock) -> Sweeper:
    return make(database, announcer, clock)


def make(database: Database, announcer: FakeAnnouncer, clock: Clock) -> Sweeper:
    return Sweeper(database, announcer.announce, announcer.outstanding, LEASE, 3, "sweeper", clock)


def announced_long_ago(ledger: LedgerDriver, *ids: int) -> None:
    for scan_id in ids:
        ledger.set(scan_id, announced_at=transitions.utc_now() - timedelta(seconds=2 * LEASE))


def test_a_claim_is_taken_back_after_a_lease_of_the_sweepers_own_time(
    ledger: LedgerDriver, sweeper: Sweeper, announcer: FakeAnnouncer, clock: Clock
) -> None:
    (scan_id,) = ledger.add(file_version())
    ledger.claimed()
    for _ in range(6):
        sweeper.sweep()
        assert ledger.state(scan_id) == "running"
        clock.moment += LEASE / 6 - 0.001
    clock.moment += 0.01
    sweeper.sweep()
    assert (ledger.state(scan_id), announcer.announced) == ("queued", [scan_id])  # and announced in the same sweep
    assert ledger.row(scan_id)["announced_at"] is not None
    assert ledger.events(scan_id)[-1]["by"] == "sweeper"


def test_the_times_in_the_row_do_not_count(ledger: LedgerDriver, sweeper: Sweeper, clock: Clock) -> None:
    """A worker whose clock is a day behind gave a lease that ran out before it began."""
    (scan_id,) = ledger.add(file_version())
    ledger.claimed()
    ledger.set(scan_id, leased_until=transitions.utc_now() - timedelta(days=1))
    sweeper.sweep()
    clock.moment += LEASE - 1
    sweeper.sweep()
    assert ledger.state(scan_id) == "running"
    clock.moment += 2
    sweeper.sweep()
    assert ledger.state(scan_id) == "queued"


def test_each_renewal_starts_the_time_anew(ledger: LedgerDriver, sweeper: Sweeper, clock: Clock) -> None:
    (scan_id,) = ledger.add(file_version())
    claim = ledger.claimed()
    for number in range(5):
        sweeper.sweep()
        clock.moment += LEASE - 1
        ledger.renew(claim, lease=timedelta(seconds=100 + number))
    sweeper.sweep()
    assert ledger.state(scan_id) == "running"
    clock.moment += LEASE
    sweeper.sweep()
    assert ledger.state(scan_id) == "queued"


def test_a_new_claim_starts_the_time_anew(ledger: LedgerDriver, sweeper: Sweeper, clock: Clock) -> None:
    (scan_id,) = ledger.add(file_version())
    claim = ledger.claimed()
    sweeper.sweep()
    clock.moment += LEASE - 1
    ledger.finish(claim, deferred(scan_id))
    ledger.claimed()
    sweeper.sweep()
    clock.moment += LEASE - 1
    sweeper.sweep()
    assert ledger.state(scan_id) == "running"


def test_a_sweeper_that_starts_late_waits_a_lease_of_its_own(
    database: Database, ledger: LedgerDriver, announcer: FakeAnnouncer, clock: Clock
) -> None:
    (scan_id,) = ledger.add(file_version())
    ledger.claimed()
    clock.moment += 10 * LEASE
    sweeper = make(database, announcer, clock)
    sweeper.sweep()
    assert ledger.state(scan_id) == "running"


def test_a_claim_taken_back_once_is_not_counted_again(ledger: LedgerDriver, sweeper: Sweeper, clock: Clock) -> None:
    (scan_id,) = ledger.add(file_version())
    ledger.claimed()
    sweeper.sweep()
    clock.moment += LEASE
    sweeper.sweep()
    clock.moment += 10 * LEASE
    sweeper.sweep()
    assert ledger.row(scan_id)["lost_leases"] == 1


def test_the_time_of_an_outage_is_held_against_no_worker(
    ledger: LedgerDriver, database: Database, announcer: FakeAnnouncer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the database is down no worker can renew its lease, and the sweep waits for the database as they do."""
    clock = Clock()
    sweeper = make(database, announcer, clock)
    (scan_id,) = ledger.add(file_version())
    claim = ledger.claimed()
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
    assert ledger.state(scan_id) == "running"
    ledger.finish(claim, classified(scan_id))
    assert ledger.state(scan_id) == "classified"


def test_what_waits_unannounced_is_announced(ledger: LedgerDriver, sweeper: Sweeper, announcer: FakeAnnouncer) -> None:
    one, two, announced = ledger.add(file_version("1"), file_version("2"), file_version("3"))
    ledger.mark_unannounced(one, two)
    sweeper.sweep()
    assert announcer.announced == [one, two]
    sweeper.sweep()
    assert announcer.announced == [one, two]
    assert ledger.row(announced)["announced_at"] is not None


def test_what_is_not_due_is_not_announced(ledger: LedgerDriver, sweeper: Sweeper, announcer: FakeAnnouncer) -> None:
    (scan_id,) = ledger.add(file_version())
    ledger.finish(ledger.claimed(), deferred(scan_id, seconds=600))
    sweeper.sweep()
    assert announcer.announced == []
    ledger.set(scan_id, not_before=transitions.utc_now() - timedelta(seconds=1))
    sweeper.sweep()
    assert announcer.announced == [scan_id]


@pytest.mark.parametrize(("held", "expected"), [(0, True), (1, False)])
def test_lost_messages_are_announced_again_only_when_the_broker_holds_nothing(
    ledger: LedgerDriver, sweeper: Sweeper, announcer: FakeAnnouncer, clock: Clock, held: int, expected: bool
) -> None:
    scans = ledger.add(file_version("1"), file_version("2"))
    announced_long_ago(ledger, *scans)
    announcer.held = held
    clock.moment += LEASE
    sweeper.sweep()
    assert announcer.announced == (scans if expected else [])


def test_what_was_announced_within_a_lease_is_not_lost(
    ledger: LedgerDriver, sweeper: Sweeper, announcer: FakeAnnouncer, clock: Clock
) -> None:
    ledger.add(file_version())
    clock.moment += LEASE
    sweeper.sweep()
    assert announcer.announced == []


def test_lost_messages_are_announced_once_a_lease(
    ledger: LedgerDriver, sweeper: Sweeper, announcer: FakeAnnouncer, clock: Clock
) -> None:
    (scan_id,) = ledger.add(file_version())
    announced_long_ago(ledger, scan_id)
    for _ in range(5):
        clock.moment += LEASE / 2
        sweeper.sweep()
    assert announcer.announced == [scan_id]


def test_a_long_queue_is_announced_in_chunks(
    ledger: LedgerDriver, sweeper: Sweeper, announcer: FakeAnnouncer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.ledger.sweep.ANNOUNCE_LIMIT", 7)
    scans = ledger.register(*(file_version(str(number)) for number in range(30))).to_announce
    ledger.mark_unannounced(*scans)
    sweeper.sweep()
    assert sorted(announcer.announced) == sorted(scans)


def test_a_broker_that_is_away_leaves_rows_unannounced(
    ledger: LedgerDriver, sweeper: Sweeper, announcer: FakeAnnouncer, clock: Clock
) -> None:
    one, two = ledger.add(file_version("1"), file_version("2"))
    ledger.mark_unannounced(one)
    announced_long_ago(ledger, two)
    announcer.away = True
    clock.moment += LEASE
    sweeper.sweep()
    assert ledger.row(one)["announced_at"] is None
    announcer.away = False
    clock.moment += LEASE
    sweeper.sweep()
    assert announcer.announced == [one, two]


def test_a_broker_that_is_away_does_not_keep_claims_from_being_taken_back(
    ledger: LedgerDriver, sweeper: Sweeper, announcer: FakeAnnouncer, clock: Clock
) -> None:
    (scan_id,) = ledger.add(file_version())
    ledger.claimed()
    announcer.away = True
    sweeper.sweep()
    clock.moment += LEASE
    sweeper.sweep()
    assert ledger.state(scan_id) == "queued"
    assert ledger.row(scan_id)["announced_at"] is None


def test_two_sweepers_at_once_do_the_work_of_one(ledger: LedgerDriver, database: Database, clock: Clock) -> None:
    held = ledger.register(*(file_version(str(number)) for number in range(20))).to_announce
    ledger.claimed()
    announcers = [FakeAnnouncer(), FakeAnnouncer()]
    sweepers = [make(database, announcer, clock) for announcer in announcers]
    for sweeper in sweepers:
        sweeper.sweep()
    clock.moment += LEASE
    run_concurrently(*(sweeper.sweep for sweeper in sweepers))
    assert sorted(announcers[0].announced + announcers[1].announced) == sorted(held)
    assert {ledger.row(scan_id)["lost_leases"] for scan_id in held} == {1}
    assert all(len(ledger.moves(scan_id)) == 3 for scan_id in held)


def test_run_ends_when_asked(ledger: LedgerDriver, sweeper: Sweeper, announcer: FakeAnnouncer) -> None:
    (scan_id,) = ledger.add(file_version())
    ledger.mark_unannounced(scan_id)
    stop = threading.Event()
    stop.set()
    sweeper.run(stop, 3600)
    assert announcer.announced == [scan_id]
    assert ledger.mark_announced(Scan.id == scan_id) == [scan_id]
