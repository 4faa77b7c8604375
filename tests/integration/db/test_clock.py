"""Clocks of machines differ, and are set: a jump of hours costs no film, no attempt, and at most a lease of time."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from books import Book, classified, deferred, seen

from db.ledger import transitions
from db.ledger.sweep import Sweeper
from db.models import Scan
from db.session import Database

LEASE = 60.0
HOURS = [timedelta(hours=-3), timedelta(hours=3)]
Jump = Callable[[timedelta], None]


class Bell:
    def __init__(self) -> None:
        self.rung: list[int] = []

    def announce(self, ids: object) -> None:
        self.rung += ids  # type: ignore[operator]

    def outstanding(self) -> int:
        return 0


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
def bell() -> Bell:
    return Bell()


@pytest.fixture
def sweeper(database: Database, bell: Bell, time: Time) -> Sweeper:
    return Sweeper(database, bell.announce, bell.outstanding, LEASE, 3, "sweeper", lambda: time.moment)


def sweep_for(sweeper: Sweeper, time: Time, seconds: float) -> None:
    sweeper.sweep()
    for _ in range(int(seconds // 5)):
        time.pass_(5)
        sweeper.sweep()


@pytest.mark.parametrize("jump", HOURS)
def test_a_film_put_off_is_announced_within_a_lease(
    book: Book, sweeper: Sweeper, bell: Bell, time: Time, jump: timedelta
) -> None:
    (scan_id,) = book.add(seen())
    book.finish(book.claimed(), deferred(scan_id, seconds=5))
    time.wall += jump
    sweep_for(sweeper, time, LEASE)
    assert bell.rung == [scan_id]
    assert [scan.id for scan in book.claimed().scans] == [scan_id]
    assert book.row(scan_id)["lost_leases"] == 0


def test_no_scan_is_put_off_for_longer_than_a_clock_that_was_set_back_could_hide(book: Book, time: Time) -> None:
    """However far off the time that its reader names; it will be put off again where that is right."""
    (scan_id,) = book.add(seen())
    book.finish(book.claimed(), deferred(scan_id, seconds=86400))
    assert book.row(scan_id)["not_before"] == time.wall + transitions.MAX_DELAY
    assert book.ring() == []


@pytest.mark.parametrize("jump", HOURS)
def test_a_lost_message_is_rung_again_within_a_lease(
    book: Book, sweeper: Sweeper, bell: Bell, time: Time, jump: timedelta
) -> None:
    (scan_id,) = book.add(seen())  # announced, and the broker holds nothing
    time.wall += jump
    sweep_for(sweeper, time, LEASE * 0.5)
    assert bell.rung == [scan_id]  # once
    sweep_for(sweeper, time, LEASE * 0.5)
    assert bell.rung == [scan_id]


@pytest.mark.parametrize("jump", HOURS)
def test_a_claim_is_neither_taken_back_early_nor_late(
    book: Book, sweeper: Sweeper, time: Time, jump: timedelta
) -> None:
    dead, alive = book.add(seen("1"), seen("2"))
    book.claimed(1)
    claim = book.claimed(1)
    sweeper.sweep()
    time.wall += jump
    sweep_for(sweeper, time, LEASE / 2)
    assert set(book.states().values()) == {"running"}
    book.renew(claim)
    sweep_for(sweeper, time, LEASE / 2 + 5)
    assert book.states() == {dead: "queued", alive: "running"}
    book.finish(claim, classified(alive))
    assert (book.row(alive)["state"], book.row(alive)["lost_leases"]) == ("classified", 0)
    assert book.row(dead)["lost_leases"] == 1


@pytest.mark.parametrize("jump", HOURS)
def test_a_suspect_that_rests_is_read_whatever_the_clock_says(book: Book, time: Time, jump: timedelta) -> None:
    suspect, other = book.add(seen("1"), seen("2"))
    book.finish(book.claimed(2), deferred(suspect), deferred(other))
    book.set(suspect, lost_leases=2, lost_leases_exclusive=1, not_before=time.wall)
    book.set(other, not_before=time.wall)
    assert [scan.id for scan in book.claimed(1).scans] == [other]  # as it rests
    later = book.add(seen("3"))
    time.wall += jump
    book.ring(Scan.id == suspect)
    assert [scan.id for scan in book.claimed(1).scans] == [suspect]
    assert [scan.id for scan in book.claimed(1).scans] == later


@pytest.mark.parametrize("jump", HOURS)
def test_a_machine_whose_clock_is_hours_off_claims_what_another_registered(
    book: Book, time: Time, jump: timedelta
) -> None:
    (scan_id,) = book.add(seen())
    time.wall += jump
    claim = book.claimed()
    book.finish(claim, classified(scan_id))
    assert book.state(scan_id) == "classified"
