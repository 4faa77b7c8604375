"""Claims: the most urgent first, each scan in one hand, and a suspect alone."""

from datetime import timedelta
from itertools import chain
from typing import Any, Final

import pytest
from books import LEASE, Book, at_once, classified, deferred, seen
from sqlalchemy import Connection, event, update

from db.ledger import transitions
from db.models import ROUTINE, STAT, Scan
from db.states import State


def ids(claim: object) -> list[int]:
    return [scan.id for scan in claim.scans]  # type: ignore[attr-defined]


def test_the_most_urgent_first_then_the_oldest(book: Book) -> None:
    first, urgent, third, between = book.add(
        seen("1"), seen("2", priority=STAT), seen("3"), seen("4", priority=ROUTINE - 1)
    )
    assert ids(book.claimed(2)) == [urgent, between]
    assert ids(book.claimed(2)) == [first, third]
    assert book.claim() is None


CAP: Final = timedelta(minutes=45)


def test_what_waits_beyond_the_cap_gets_half_of_each_claim_the_oldest_first(book: Book) -> None:
    old = book.add(*(seen(f"old {number}") for number in range(6)))
    urgent = book.add(*(seen(f"urgent {number}", priority=STAT) for number in range(6)))
    for age, scan_id in enumerate(reversed(old)):
        book.set(scan_id, received_at=transitions.utc_now() - CAP - timedelta(minutes=age + 1))
    assert set(ids(book.claim(4, overdue_after=CAP))) == {*old[:2], *urgent[:2]}
    assert set(ids(book.claim(4, overdue_after=CAP))) == {*old[2:4], *urgent[2:4]}
    assert set(ids(book.claim(100, overdue_after=CAP))) == {*old[4:], *urgent[4:]}


def test_nothing_goes_before_its_turn_within_the_cap(book: Book) -> None:
    routine, urgent = book.add(seen("1"), seen("2", priority=STAT))
    book.set(routine, received_at=transitions.utc_now() - CAP + timedelta(minutes=1))
    assert ids(book.claim(1, overdue_after=CAP)) == [urgent]
    assert ids(book.claim(1, overdue_after=CAP)) == [routine]


def test_urgent_and_old_films_that_are_claimed_one_by_one_both_come(book: Book) -> None:
    """By lot, so this would fail once in 2**30 runs."""
    old = book.add(*(seen(f"old {number}") for number in range(60)))
    urgent = book.add(*(seen(f"urgent {number}", priority=STAT) for number in range(60)))
    book.database.write(
        lambda c: c.execute(update(Scan).where(Scan.id.in_(old)).values(received_at=transitions.utc_now() - 2 * CAP))
    )
    first = [*chain(*(ids(book.claim(1, overdue_after=CAP)) for _ in range(30)))]
    assert set(first) & set(old)
    assert set(first) & set(urgent)
    assert len(set(first)) == 30


def test_a_suspect_beyond_the_cap_is_read_under_a_flow_of_urgent_films(book: Book) -> None:
    """By lot, too."""
    (suspect,) = book.add(seen("old"))
    book.add(*(seen(f"urgent {number}", priority=STAT) for number in range(90)))
    book.set(suspect, lost_leases=1, received_at=transitions.utc_now() - 2 * CAP)
    claims = [book.claim(2, overdue_after=CAP) for _ in range(30)]
    (found,) = [claim for claim in claims if claim is not None and suspect in ids(claim)]
    assert (ids(found), found.quarantined) == ([suspect], True)
    assert sum(len(ids(claim)) for claim in claims) > 30


def test_what_is_beyond_the_cap_and_not_due_waits(book: Book) -> None:
    (scan_id,) = book.add(seen())
    book.finish(book.claimed(), deferred(scan_id, seconds=600))
    book.set(scan_id, received_at=transitions.utc_now() - 2 * CAP)
    assert book.claim(2, overdue_after=CAP) is None


def test_two_claimers_beyond_the_cap_never_share_a_scan_nor_leave_one(book: Book) -> None:
    total = 90
    book.arrive(*(seen(f"{number}.png", priority=STAT if number % 3 else ROUTINE) for number in range(total)))
    book.database.write(lambda c: c.execute(update(Scan).values(received_at=transitions.utc_now() - 2 * CAP)))
    taken: list[list[int]] = [[], [], []]

    def work(mine: list[int]) -> None:
        while len(set(chain(*taken))) < total:
            claim = book.claim(7, overdue_after=CAP)
            mine.extend(ids(claim) if claim else [])

    at_once(*(lambda mine=mine: work(mine) for mine in taken))
    assert sorted(chain(*taken)) == sorted(book.states())


def test_claims_read_indexes_in_their_order(book: Book) -> None:
    """However many wait: no sort, and nothing read but what is taken."""
    book.arrive(*(seen(f"{number}", priority=STAT if number % 9 == 0 else ROUTINE) for number in range(400)))
    book.database.write(lambda c: c.execute(update(Scan).where(Scan.id <= 200).values(state=State.REJECTED)))
    book.database.write(lambda c: c.execute(update(Scan).values(received_at=transitions.utc_now() - 2 * CAP)))
    plans = book.database.read(lambda c: _plans(c, lambda: transitions.claim(c, 8, "worker", LEASE, CAP)))
    picks = [plan for plan in plans if "ix_scans" in plan]
    assert [next(name for name in ("ix_scans_received", "ix_scans_waiting") if name in plan) for plan in picks] == [
        "ix_scans_received",
        "ix_scans_waiting",
    ]
    assert not [plan for plan in plans if "Seq Scan on scans" in plan or "SCAN scans\n" in f"{plan}\n"]
    assert not [plan for plan in picks if "Sort" in plan or "B-TREE FOR ORDER" in plan]


def _plans(connection: Connection, work: Any) -> list[str]:
    """Of each SELECT and UPDATE of scans that this work runs, as its transaction has them planned."""
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


def test_a_claim_tells_what_its_reader_needs(book: Book) -> None:
    (scan_id,) = book.add(seen("ward/a.png", size=7, mtime_ns=2**62))
    claim = book.claimed()
    (scan,) = claim.scans
    assert (scan.inbox, scan.path_bytes, scan.size, scan.mtime_ns) == ("inbox", b"ward/a.png", 7, 2**62)
    assert scan.changed_at.tzinfo is not None
    row = book.row(scan_id)
    assert (row["state"], row["claim_token"], row["claimed_by"]) == ("running", claim.token, "worker")
    assert row["leased_until"] > transitions.utc_now()
    assert book.moves(scan_id) == [(None, "queued"), ("queued", "running")]


def test_each_claim_has_a_token_of_its_own(book: Book) -> None:
    book.add(seen("1"), seen("2"))
    assert book.claimed(1).token != book.claimed(1).token


def test_a_scan_is_not_claimed_before_its_time(book: Book) -> None:
    (scan_id,) = book.add(seen())
    book.finish(book.claimed(), deferred(scan_id, seconds=600))
    assert book.claim() is None
    assert book.ring() == []
    book.set(scan_id, not_before=transitions.utc_now() - timedelta(seconds=1))
    assert ids(book.claimed()) == [scan_id]


def test_a_licence_is_not_spent_on_what_is_due_and_not_announced(book: Book) -> None:
    """It would be missing to what was announced, which nothing else would announce for a lease."""
    (put_off,) = book.add(seen("1"))
    book.finish(book.claimed(), deferred(put_off))
    (announced,) = book.add(seen("2"))
    assert ids(book.claim(1, swept=False)) == [announced]
    assert book.claim(1, swept=False) is None
    assert book.ring() == [put_off]
    assert ids(book.claim(1, swept=False)) == [put_off]


def test_what_was_announced_is_due_on_every_clock(book: Book) -> None:
    """The watcher's clock may run before the worker's."""
    (scan_id,) = book.add(seen())
    book.set(scan_id, not_before=transitions.utc_now() + timedelta(seconds=5))
    assert ids(book.claimed()) == [scan_id]


def test_a_suspect_that_is_most_urgent_is_claimed_alone(book: Book) -> None:
    suspect, other = book.add(seen("1"), seen("2"))
    book.set(suspect, lost_leases=1)
    claim = book.claimed()
    assert (ids(claim), claim.quarantined) == ([suspect], True)
    claim = book.claimed()
    assert (ids(claim), claim.quarantined) == ([other], False)


def test_a_suspect_is_left_out_of_a_batch(book: Book) -> None:
    first, suspect, third = book.add(seen("1"), seen("2"), seen("3"))
    book.set(suspect, lost_leases=1)
    assert ids(book.claimed()) == [first, third]
    assert ids(book.claimed()) == [suspect]


def test_two_claimers_never_share_a_scan(book: Book) -> None:
    total = 120
    book.arrive(*(seen(f"{number}.png") for number in range(total)))
    taken: list[list[int]] = [[], [], []]

    def work(mine: list[int]) -> None:
        while len(set(chain(*taken))) < total:
            claim = book.claim(7)
            mine.extend(ids(claim) if claim else [])

    at_once(*(lambda mine=mine: work(mine) for mine in taken))
    every = [*chain(*taken)]
    assert len(every) == len(set(every)) == total
    assert set(book.states().values()) == {"running"}
    assert book.event_count() == 2 * total


def test_renew_extends_what_is_held_and_nothing_else(book: Book) -> None:
    book.add(seen("1"), seen("2"))
    mine, other = book.claimed(1), book.claimed(1)
    before = {scan_id: book.row(scan_id)["leased_until"] for scan_id in book.states()}
    book.renew(mine, exclusive=True, lease=timedelta(hours=1))
    (held,), (left,) = ids(mine), ids(other)
    assert book.row(held)["leased_until"] > before[held] + timedelta(minutes=50)
    assert book.row(held)["exclusive"]
    assert book.row(left)["leased_until"] == before[left]
    assert not book.row(left)["exclusive"]
    assert book.event_count() == 4  # none of its own: it is no move


def test_renew_of_a_lost_claim_changes_nothing(book: Book) -> None:
    (scan_id,) = book.add(seen())
    lost = book.claimed()
    book.expire(lost)
    claim = book.claimed()
    before = book.row(scan_id)
    book.renew(lost, exclusive=True)
    assert book.row(scan_id) == before
    assert ids(claim) == [scan_id]


def test_renew_of_a_finished_claim_changes_nothing(book: Book) -> None:
    (scan_id,) = book.add(seen())
    claim = book.claimed()
    book.finish(claim, classified(scan_id))
    before = book.row(scan_id)
    book.renew(claim)
    assert book.row(scan_id) == before


def test_ring_announces_the_most_urgent_that_wait_unannounced(book: Book) -> None:
    one, two, urgent = book.add(seen("1"), seen("2"), seen("3", priority=STAT))
    assert book.ring() == []
    book.unring(one, two, urgent)
    assert book.ring(limit=2) == [urgent, one]
    assert book.ring() == [two]
    assert book.ring() == []
    assert book.event_count() == 3


def test_neither_ring_nor_unring_touches_what_is_held(book: Book) -> None:
    (scan_id,) = book.add(seen())
    book.claimed()
    before = book.row(scan_id)
    book.unring(scan_id)
    assert book.ring(Scan.id == scan_id) == []
    assert book.row(scan_id) == before


def test_two_sweeps_at_once_ring_each_scan_once(book: Book) -> None:
    scans = book.arrive(*(seen(f"{number}.png") for number in range(100))).to_announce
    book.unring(*scans)
    rung = at_once(*[lambda: book.ring(limit=30)] * 3)
    every = [*chain(*rung)]
    assert len(every) == len(set(every))


@pytest.mark.parametrize("count", [1, 3])
def test_a_claim_takes_no_more_than_its_licence(book: Book, count: int) -> None:
    book.add(*(seen(f"{number}.png") for number in range(5)))
    assert len(book.claimed(count).scans) == count
