"""Claims: the most urgent first, each scan held once, and a quarantined scan alone."""

from datetime import timedelta
from itertools import chain
from typing import Any, Final

import pytest
from sqlalchemy import Connection, event, update
from support.ledger_driver import LEASE, LedgerDriver, classified, deferred, file_version, run_concurrently

from db.ledger import transitions
from db.models import ROUTINE, STAT, Scan
from db.states import State


def ids(claim: object) -> list[int]:
    return [scan.id for scan in claim.scans]  # type: ignore[attr-defined]


def test_the_most_urgent_first_then_the_oldest(ledger: LedgerDriver) -> None:
    first, urgent, third, between = ledger.add(
        file_version("1"), file_version("2", priority=STAT), file_version("3"), file_version("4", priority=ROUTINE - 1)
    )
    assert ids(ledger.claimed(2)) == [urgent, between]
    assert ids(ledger.claimed(2)) == [first, third]
    assert ledger.claim() is None


CAP: Final = timedelta(minutes=45)


def test_what_waits_beyond_the_cap_gets_half_of_each_claim_the_oldest_first(ledger: LedgerDriver) -> None:
    old = ledger.add(*(file_version(f"old {number}") for number in range(6)))
    urgent = ledger.add(*(file_version(f"urgent {number}", priority=STAT) for number in range(6)))
    for age, scan_id in enumerate(reversed(old)):
        ledger.set(scan_id, received_at=transitions.utc_now() - CAP - timedelta(minutes=age + 1))
    assert set(ids(ledger.claim(4, overdue_after=CAP))) == {*old[:2], *urgent[:2]}
    assert set(ids(ledger.claim(4, overdue_after=CAP))) == {*old[2:4], *urgent[2:4]}
    assert set(ids(ledger.claim(100, overdue_after=CAP))) == {*old[4:], *urgent[4:]}


def test_nothing_goes_before_its_turn_within_the_cap(ledger: LedgerDriver) -> None:
    routine, urgent = ledger.add(file_version("1"), file_version("2", priority=STAT))
    ledger.set(routine, received_at=transitions.utc_now() - CAP + timedelta(minutes=1))
    assert ids(ledger.claim(1, overdue_after=CAP)) == [urgent]
    assert ids(ledger.claim(1, overdue_after=CAP)) == [routine]


def test_urgent_and_old_images_that_are_claimed_one_by_one_both_come(ledger: LedgerDriver) -> None:
    """The choice is random, so this fails once in 2**30 runs."""
    old = ledger.add(*(file_version(f"old {number}") for number in range(60)))
    urgent = ledger.add(*(file_version(f"urgent {number}", priority=STAT) for number in range(60)))
    ledger.database.write(
        lambda c: c.execute(update(Scan).where(Scan.id.in_(old)).values(received_at=transitions.utc_now() - 2 * CAP))
    )
    first = [*chain(*(ids(ledger.claim(1, overdue_after=CAP)) for _ in range(30)))]
    assert set(first) & set(old)
    assert set(first) & set(urgent)
    assert len(set(first)) == 30


def test_a_quarantined_scan_beyond_the_cap_is_read_under_a_flow_of_urgent_images(ledger: LedgerDriver) -> None:
    """The choice is random here as well."""
    (quarantined,) = ledger.add(file_version("old"))
    ledger.add(*(file_version(f"urgent {number}", priority=STAT) for number in range(90)))
    ledger.set(quarantined, lost_leases=1, received_at=transitions.utc_now() - 2 * CAP)
    claims = [ledger.claim(2, overdue_after=CAP) for _ in range(30)]
    (found,) = [claim for claim in claims if claim is not None and quarantined in ids(claim)]
    assert (ids(found), found.quarantined) == ([quarantined], True)
    assert sum(len(ids(claim)) for claim in claims) > 30


def test_what_is_beyond_the_cap_and_not_due_waits(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.add(file_version())
    ledger.finish(ledger.claimed(), deferred(scan_id, seconds=600))
    ledger.set(scan_id, received_at=transitions.utc_now() - 2 * CAP)
    assert ledger.claim(2, overdue_after=CAP) is None


def test_two_claimers_beyond_the_cap_never_share_a_scan_nor_leave_one(ledger: LedgerDriver) -> None:
    total = 90
    ledger.register(
        *(file_version(f"{number}.png", priority=STAT if number % 3 else ROUTINE) for number in range(total))
    )
    ledger.database.write(lambda c: c.execute(update(Scan).values(received_at=transitions.utc_now() - 2 * CAP)))
    taken: list[list[int]] = [[], [], []]

    def work(mine: list[int]) -> None:
        while len(set(chain(*taken))) < total:
            claim = ledger.claim(7, overdue_after=CAP)
            mine.extend(ids(claim) if claim else [])

    run_concurrently(*(lambda mine=mine: work(mine) for mine in taken))
    assert sorted(chain(*taken)) == sorted(ledger.states())


def test_claims_read_indexes_in_their_order(ledger: LedgerDriver) -> None:
    """So however many wait: no sort, and no row read that is not claimed."""
    ledger.register(
        *(file_version(f"{number}", priority=STAT if number % 9 == 0 else ROUTINE) for number in range(400))
    )
    ledger.database.write(lambda c: c.execute(update(Scan).where(Scan.id <= 200).values(state=State.REJECTED)))
    ledger.database.write(lambda c: c.execute(update(Scan).values(received_at=transitions.utc_now() - 2 * CAP)))
    plans = ledger.database.read(lambda c: _plans(c, lambda: transitions.claim(c, 8, "worker", LEASE, CAP)))
    picks = [plan for plan in plans if "ix_scans" in plan]
    assert [next(name for name in ("ix_scans_received", "ix_scans_waiting") if name in plan) for plan in picks] == [
        "ix_scans_received",
        "ix_scans_waiting",
    ]
    assert not [plan for plan in plans if "Seq Scan on scans" in plan or "SCAN scans\n" in f"{plan}\n"]
    assert not [plan for plan in picks if "Sort" in plan or "B-TREE FOR ORDER" in plan]


def _plans(connection: Connection, work: Any) -> list[str]:
    """Return the plan of each SELECT and UPDATE of scans that `work` runs, within its transaction."""
    ran: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        if statement.startswith(("SELECT scans", "UPDATE scans")):
            ran.append((statement, parameters))

    event.listen(connection, "before_cursor_execute", note)
    assert work() is not None
    event.remove(connection, "before_cursor_execute", note)
    if connection.dialect.name == "sqlite":
        explained = [connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {one}", values) for one, values in ran]
        return ["\n".join(row.detail for row in rows) for rows in explained]
    return ["\n".join(connection.exec_driver_sql(f"EXPLAIN {one}", values).scalars()) for one, values in ran]


def test_a_claim_tells_what_its_reader_needs(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.add(file_version("ward/a.png", size=7, mtime_ns=2**62))
    claim = ledger.claimed()
    (scan,) = claim.scans
    assert (scan.inbox, scan.path_bytes, scan.size, scan.mtime_ns) == ("inbox", b"ward/a.png", 7, 2**62)
    assert scan.changed_at.tzinfo is not None
    row = ledger.row(scan_id)
    assert (row["state"], row["claim_token"], row["claimed_by"]) == ("running", claim.token, "worker")
    assert row["leased_until"] > transitions.utc_now()
    assert ledger.moves(scan_id) == [(None, "queued"), ("queued", "running")]


def test_each_claim_has_a_token_of_its_own(ledger: LedgerDriver) -> None:
    ledger.add(file_version("1"), file_version("2"))
    assert ledger.claimed(1).token != ledger.claimed(1).token


def test_a_scan_is_not_claimed_before_its_time(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.add(file_version())
    ledger.finish(ledger.claimed(), deferred(scan_id, seconds=600))
    assert ledger.claim() is None
    assert ledger.mark_announced() == []
    ledger.set(scan_id, not_before=transitions.utc_now() - timedelta(seconds=1))
    assert ids(ledger.claimed()) == [scan_id]


def test_a_permit_is_not_spent_on_what_is_due_and_not_announced(ledger: LedgerDriver) -> None:
    """The announced scan would lack it, and nothing would announce that scan again for a lease."""
    (put_off,) = ledger.add(file_version("1"))
    ledger.finish(ledger.claimed(), deferred(put_off))
    (announced,) = ledger.add(file_version("2"))
    assert ids(ledger.claim(1, swept=False)) == [announced]
    assert ledger.claim(1, swept=False) is None
    assert ledger.mark_announced() == [put_off]
    assert ids(ledger.claim(1, swept=False)) == [put_off]


def test_what_was_announced_is_due_on_every_clock(ledger: LedgerDriver) -> None:
    """The watcher's clock may run before the worker's."""
    (scan_id,) = ledger.add(file_version())
    ledger.set(scan_id, not_before=transitions.utc_now() + timedelta(seconds=5))
    assert ids(ledger.claimed()) == [scan_id]


def test_a_quarantined_scan_that_is_most_urgent_is_claimed_alone(ledger: LedgerDriver) -> None:
    quarantined, other = ledger.add(file_version("1"), file_version("2"))
    ledger.set(quarantined, lost_leases=1)
    claim = ledger.claimed()
    assert (ids(claim), claim.quarantined) == ([quarantined], True)
    claim = ledger.claimed()
    assert (ids(claim), claim.quarantined) == ([other], False)


def test_a_quarantined_scan_is_left_out_of_a_batch(ledger: LedgerDriver) -> None:
    first, quarantined, third = ledger.add(file_version("1"), file_version("2"), file_version("3"))
    ledger.set(quarantined, lost_leases=1)
    assert ids(ledger.claimed()) == [first, third]
    assert ids(ledger.claimed()) == [quarantined]


def test_two_claimers_never_share_a_scan(ledger: LedgerDriver) -> None:
    total = 120
    ledger.register(*(file_version(f"{number}.png") for number in range(total)))
    taken: list[list[int]] = [[], [], []]

    def work(mine: list[int]) -> None:
        while len(set(chain(*taken))) < total:
            claim = ledger.claim(7)
            mine.extend(ids(claim) if claim else [])

    run_concurrently(*(lambda mine=mine: work(mine) for mine in taken))
    every = [*chain(*taken)]
    assert len(every) == len(set(every)) == total
    assert set(ledger.states().values()) == {"running"}
    assert ledger.event_count() == 2 * total


def test_renew_extends_what_is_held_and_nothing_else(ledger: LedgerDriver) -> None:
    ledger.add(file_version("1"), file_version("2"))
    mine, other = ledger.claimed(1), ledger.claimed(1)
    before = {scan_id: ledger.row(scan_id)["leased_until"] for scan_id in ledger.states()}
    ledger.renew(mine, exclusive=True, lease=timedelta(hours=1))
    (held,), (left,) = ids(mine), ids(other)
    assert ledger.row(held)["leased_until"] > before[held] + timedelta(minutes=50)
    assert ledger.row(held)["exclusive"]
    assert ledger.row(left)["leased_until"] == before[left]
    assert not ledger.row(left)["exclusive"]
    assert ledger.event_count() == 4  # none of its own: it is no move


def test_renew_of_a_lost_claim_changes_nothing(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.add(file_version())
    lost = ledger.claimed()
    ledger.expire(lost)
    claim = ledger.claimed()
    before = ledger.row(scan_id)
    ledger.renew(lost, exclusive=True)
    assert ledger.row(scan_id) == before
    assert ids(claim) == [scan_id]


def test_renew_of_a_finished_claim_changes_nothing(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.add(file_version())
    claim = ledger.claimed()
    ledger.finish(claim, classified(scan_id))
    before = ledger.row(scan_id)
    ledger.renew(claim)
    assert ledger.row(scan_id) == before


def test_the_most_urgent_that_wait_are_announced_first(ledger: LedgerDriver) -> None:
    one, two, urgent = ledger.add(file_version("1"), file_version("2"), file_version("3", priority=STAT))
    assert ledger.mark_announced() == []
    ledger.mark_unannounced(one, two, urgent)
    assert ledger.mark_announced(limit=2) == [urgent, one]
    assert ledger.mark_announced() == [two]
    assert ledger.mark_announced() == []
    assert ledger.event_count() == 3


def test_marking_as_announced_or_not_leaves_claimed_scans_alone(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.add(file_version())
    ledger.claimed()
    before = ledger.row(scan_id)
    ledger.mark_unannounced(scan_id)
    assert ledger.mark_announced(Scan.id == scan_id) == []
    assert ledger.row(scan_id) == before


def test_two_sweeps_at_once_announce_each_scan_once(ledger: LedgerDriver) -> None:
    scans = ledger.register(*(file_version(f"{number}.png") for number in range(100))).to_announce
    ledger.mark_unannounced(*scans)
    announced = run_concurrently(*[lambda: ledger.mark_announced(limit=30)] * 3)
    every = [*chain(*announced)]
    assert len(every) == len(set(every))


@pytest.mark.parametrize("count", [1, 3])
def test_a_claim_takes_no_more_than_its_permits(ledger: LedgerDriver, count: int) -> None:
    ledger.add(*(file_version(f"{number}.png") for number in range(5)))
    assert len(ledger.claimed(count).scans) == count
