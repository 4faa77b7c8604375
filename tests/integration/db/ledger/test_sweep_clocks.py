"""Clock differences and jumps: a jump of hours costs no scan and no attempt, and delays by at most one lease."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from support.fake_announcer import FakeAnnouncer
from support.ledger_driver import LedgerDriver, classified, deferred, file_version

from db.ledger import transitions
from db.ledger.sweep import Sweeper
from db.models import Scan
from db.session import Database

LEASE = 60.0
HOURS = [timedelta(hours=-3), timedelta(hours=3)]
Jump = Callable[[timedelta], None]


class Time:
    """The wall clock, which can be set, and the monotonic one, which cannot."""

    def __init__(self) -> None:
        self.wall = datetime(2026, 3, 29, 1, 59, tzinfo=UTC)
        self.moment = 1000.0

    def now(self) -> datetime:
        return self.wall

    def pass_(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.moment += seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    made = Time()
    monkeypatch.setattr(transitions, "utc_now", made.now)
    return made


@pytest.fixture
def announcer() -> FakeAnnouncer:
    return FakeAnnouncer()


@pytest.fixture
def sweeper(database: Database, announcer: FakeAnnouncer, time: Time) -> Sweeper:
    return Sweeper(database, announcer.announce, announcer.outstanding, LEASE, 3, "sweeper", lambda: time.moment)


def sweep_for(sweeper: Sweeper, time: Time, seconds: float) -> None:
    sweeper.sweep()
    for _ in range(int(seconds // 5)):
        time.pass_(5)
        sweeper.sweep()


@pytest.mark.parametrize("jump", HOURS)
def test_an_image_put_off_is_announced_within_a_lease(
    ledger: LedgerDriver, sweeper: Sweeper, announcer: FakeAnnouncer, time: Time, jump: timedelta
) -> None:
    (scan_id,) = ledger.add(file_version())
    ledger.finish(ledger.claimed(), deferred(scan_id, seconds=5))
    time.wall += jump
    sweep_for(sweeper, time, LEASE)
    assert announcer.announced == [scan_id]
    assert [scan.id for scan in ledger.claimed().scans] == [scan_id]
    assert ledger.row(scan_id)["lost_leases"] == 0


def test_no_scan_is_put_off_for_longer_than_a_clock_that_was_set_back_could_hide(
    ledger: LedgerDriver, time: Time
) -> None:
    """However far off the time that its reader names; it will be put off again where that is right."""
    (scan_id,) = ledger.add(file_version())
    ledger.finish(ledger.claimed(), deferred(scan_id, seconds=86400))
    assert ledger.row(scan_id)["not_before"] == time.wall + transitions.MAX_DELAY
    assert ledger.mark_announced() == []


@pytest.mark.parametrize("jump", HOURS)
def test_a_lost_message_is_announced_again_within_a_lease(
    ledger: LedgerDriver, sweeper: Sweeper, announcer: FakeAnnouncer, time: Time, jump: timedelta
) -> None:
    (scan_id,) = ledger.add(file_version())  # announced, and the broker holds nothing
    time.wall += jump
    sweep_for(sweeper, time, LEASE * 0.5)
    assert announcer.announced == [scan_id]  # once
    sweep_for(sweeper, time, LEASE * 0.5)
    assert announcer.announced == [scan_id]


@pytest.mark.parametrize("jump", HOURS)
def test_a_claim_is_neither_taken_back_early_nor_late(
    ledger: LedgerDriver, sweeper: Sweeper, time: Time, jump: timedelta
) -> None:
    dead, alive = ledger.add(file_version("1"), file_version("2"))
    ledger.claimed(1)
    claim = ledger.claimed(1)
    sweeper.sweep()
    time.wall += jump
    sweep_for(sweeper, time, LEASE / 2)
    assert set(ledger.states().values()) == {"running"}
    ledger.renew(claim)
    sweep_for(sweeper, time, LEASE / 2 + 5)
    assert ledger.states() == {dead: "queued", alive: "running"}
    ledger.finish(claim, classified(alive))
    assert (ledger.row(alive)["state"], ledger.row(alive)["lost_leases"]) == ("classified", 0)
    assert ledger.row(dead)["lost_leases"] == 1


@pytest.mark.parametrize("jump", HOURS)
def test_a_scan_that_cools_down_is_read_whatever_the_clock_says(
    ledger: LedgerDriver, time: Time, jump: timedelta
) -> None:
    quarantined, other = ledger.add(file_version("1"), file_version("2"))
    ledger.finish(ledger.claimed(2), deferred(quarantined), deferred(other))
    ledger.set(quarantined, lost_leases=2, lost_leases_exclusive=1, not_before=time.wall)
    ledger.set(other, not_before=time.wall)
    assert [scan.id for scan in ledger.claimed(1).scans] == [other]  # as it rests
    later = ledger.add(file_version("3"))
    time.wall += jump
    ledger.mark_announced(Scan.id == quarantined)
    assert [scan.id for scan in ledger.claimed(1).scans] == [quarantined]
    assert [scan.id for scan in ledger.claimed(1).scans] == later


@pytest.mark.parametrize("jump", HOURS)
def test_a_machine_whose_clock_is_hours_off_claims_what_another_registered(
    ledger: LedgerDriver, time: Time, jump: timedelta
) -> None:
    (scan_id,) = ledger.add(file_version())
    time.wall += jump
    claim = ledger.claimed()
    ledger.finish(claim, classified(scan_id))
    assert ledger.state(scan_id) == "classified"
