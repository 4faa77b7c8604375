"""Lost leases: scans are requeued, quarantined ones read alone, and only those that kill alone are failed."""

from datetime import timedelta

from support.ledger_driver import LedgerDriver, classified, file_version, rejected

from db.ledger import transitions
from db.models import Scan
from db.states import Reason


def die_alone(ledger: LedgerDriver, scan_id: int, max_attempts: int = 3) -> None:
    claim = ledger.claimed()
    assert [scan.id for scan in claim.scans] == [scan_id]
    ledger.renew(claim, exclusive=True)
    assert ledger.expire(claim, max_attempts) == 1


def test_a_lease_that_ran_out_puts_the_scan_back_into_quarantine(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.add(file_version())
    claim = ledger.claimed()
    assert ledger.expire(claim) == 1
    row = ledger.row(scan_id)
    assert (row["state"], row["lost_leases"], row["lost_leases_exclusive"], row["announced_at"]) == (
        "queued",
        1,
        0,
        None,
    )
    assert (row["claim_token"], row["claimed_by"], row["leased_until"]) == (None, None, None)
    assert ledger.moves(scan_id)[-1] == ("running", "queued")
    assert ledger.claimed().quarantined


def test_expired_twice_counts_once(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.add(file_version())
    claim = ledger.claimed()
    assert ledger.expire(claim) == 1
    assert ledger.expire(claim) == 0
    assert ledger.row(scan_id)["lost_leases"] == 1
    ledger.claimed()
    assert ledger.expire(claim) == 0  # the token is an older claim's
    assert ledger.state(scan_id) == "running"


def test_failed_only_after_max_attempts_lost_leases_while_exclusive(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.add(file_version())
    ledger.expire(ledger.claimed(), 2)  # the first death was in a batch, and counts against nobody
    die_alone(ledger, scan_id, 2)
    assert ledger.state(scan_id) == "queued"
    die_alone(ledger, scan_id, 2)
    row = ledger.row(scan_id)
    assert (row["state"], row["lost_leases"], row["lost_leases_exclusive"]) == ("failed", 3, 2)
    assert row["detail"]
    assert row["finished_at"] is not None
    assert ledger.moves(scan_id)[-1] == ("running", "failed")
    assert ledger.claim() is None


def test_a_killer_fails_and_its_batch_mates_never(ledger: LedgerDriver) -> None:
    killer, *innocent = ledger.add(*(file_version(name) for name in "1234"))
    for _ in range(20):
        claim = ledger.claim()
        if claim is None:
            break
        held = [scan.id for scan in claim.scans]
        if claim.quarantined:
            ledger.renew(claim, exclusive=True)
        if killer in held:
            ledger.expire(claim)
        else:
            ledger.finish(claim, *map(classified, held))
    assert ledger.states() == {killer: "failed", **dict.fromkeys(innocent, "classified")}


def test_many_deaths_in_company_fail_nobody(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.add(file_version())
    for _ in range(10):
        ledger.expire(ledger.claimed(), max_attempts=1)
    assert ledger.state(scan_id) == "queued"
    assert ledger.row(scan_id)["lost_leases"] == 10


def rest_over(ledger: LedgerDriver, scan_id: int, times: int) -> None:
    """Let the time pass in which a quarantined scan lets others go first."""
    ledger.set(scan_id, not_before=transitions.utc_now() - transitions.COOLDOWNS[times - 1])


def test_a_quarantined_scan_whose_worker_died_lets_others_go_first_for_a_while(ledger: LedgerDriver) -> None:
    """Otherwise a worker that is killed at each start would fail the scan that it claims first."""
    first, *others = ledger.add(*(file_version(name) for name in "123"))
    ledger.expire(ledger.claimed(1))
    die_alone(ledger, first)
    assert [scan.id for scan in ledger.claimed(1).scans] == others[:1]
    rest_over(ledger, first, 1)
    die_alone(ledger, first)
    rest_over(ledger, first, 1)
    assert [scan.id for scan in ledger.claimed(1).scans] == others[1:]
    (late,) = ledger.add(file_version("4"))
    rest_over(ledger, first, 2)
    die_alone(ledger, first)
    assert ledger.states()[first] == "failed"
    assert [scan.id for scan in ledger.claimed(1).scans] == [late]


def test_where_nothing_else_waits_a_quarantined_scan_need_not_cool_down(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.add(file_version())
    ledger.expire(ledger.claimed(1))
    for _ in range(3):
        die_alone(ledger, scan_id)
    assert ledger.state(scan_id) == "failed"


def test_a_worker_killed_twenty_times_as_soon_as_it_holds_an_image_fails_none(ledger: LedgerDriver) -> None:
    """The worst case: no image is ever finished between two deaths. 8 images are claimed at once, more arrive."""
    ids = ledger.add(*(file_version(f"first {number}") for number in range(8)))
    for number in range(20):
        ids += ledger.add(file_version(f"later {number}"))
        claim = ledger.claimed(8)
        if claim.quarantined:
            ledger.renew(claim, exclusive=True)
        ledger.expire(claim)
    rows = [ledger.row(scan_id) for scan_id in ids]
    assert {row["state"] for row in rows} == {"queued"}
    assert max(row["lost_leases_exclusive"] for row in rows) == 1
    for _ in range(2 * len(ids)):
        if claim := ledger.claim(8):
            ledger.finish(claim, *(classified(scan.id) for scan in claim.scans))
    assert set(ledger.states().values()) == {"classified"}


def test_what_is_given_up_says_why_and_waits_longer_each_time(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.add(file_version())

    def give_up(exclusive: bool) -> float:
        claim = ledger.claimed()
        if exclusive:
            ledger.renew(claim, exclusive=True)
        pairs, pause = [(scan_id, claim.token)], timedelta(seconds=5)
        at = transitions.utc_now()
        why = "reading it ended in an error (KeyError)"
        ledger.database.write(lambda c: transitions.expire_claims(c, pairs, 3, "worker", why, pause))
        wait = (ledger.row(scan_id)["not_before"] - at).total_seconds()
        ledger.set(scan_id, not_before=at)
        return wait

    assert [round(give_up(exclusive)) for exclusive in (False, True, True)] == [0, 5, 10]
    assert ledger.events(scan_id)[-1]["detail"] == "reading it ended in an error (KeyError)"
    give_up(exclusive=True)
    assert ledger.state(scan_id) == "failed"
    assert "KeyError" in ledger.row(scan_id)["detail"]


def test_a_lease_that_was_lost_cannot_be_renewed(ledger: LedgerDriver) -> None:
    ledger.add(file_version())
    claim = ledger.claimed()
    assert ledger.database.write(lambda c: transitions.renew_lease(c, claim, timedelta(seconds=9)))
    ledger.expire(claim)
    assert not ledger.database.write(lambda c: transitions.renew_lease(c, claim, timedelta(seconds=9), exclusive=True))
    assert not ledger.row(claim.scans[0].id)["exclusive"]


def test_requeue_gives_a_failed_scan_a_clean_slate(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.add(file_version())
    die_alone(ledger, scan_id, 1)
    assert ledger.state(scan_id) == "failed"
    assert ledger.requeue() == [scan_id]
    row = ledger.row(scan_id)
    assert (row["state"], row["lost_leases"], row["lost_leases_exclusive"], row["exclusive"]) == ("queued", 0, 0, False)
    assert (row["finished_at"], row["detail"], row["announced_at"]) == (None, None, None)
    assert ledger.moves(scan_id)[-1] == ("failed", "queued")
    assert not ledger.claimed().quarantined


def test_requeue_takes_what_is_asked_for_and_can_be_requeued(ledger: LedgerDriver) -> None:
    empty = ledger.reject(file_version("1"), Reason.EMPTY)
    damaged = ledger.reject(file_version("2"), Reason.UNREADABLE)
    (done,) = ledger.classify(file_version("3"))
    (duplicate,) = ledger.classify(file_version("4"), sha256=f"{done:064x}")
    (held,) = ledger.add(file_version("5"))
    ledger.claimed()
    (waiting,) = ledger.add(file_version("6"))
    assert ledger.requeue(Scan.reason == Reason.EMPTY) == [empty]
    assert ledger.requeue() == [damaged]
    assert ledger.requeue() == []
    assert ledger.states() == {
        empty: "queued", damaged: "queued", waiting: "queued",
        done: "classified", duplicate: "duplicate", held: "running",
    }  # fmt: skip


def test_requeue_leaves_superseded_scans(ledger: LedgerDriver) -> None:
    """Their content is gone: they could only be rejected again."""
    old = ledger.reject(file_version())
    ledger.register(file_version(size=200))
    assert ledger.requeue() == []
    assert ledger.state(old) == "rejected"


def test_a_requeued_scan_follows_its_file(ledger: LedgerDriver) -> None:
    scan_id = ledger.reject(file_version())
    ledger.requeue()
    assert ledger.register(file_version(size=200)).to_announce == [scan_id]
    ledger.finish(ledger.claimed(), rejected(scan_id))
    assert ledger.row(scan_id)["size"] == 200


def test_who_is_alone_releases_what_others_had_claimed_or_announced(ledger: LedgerDriver) -> None:
    """As `up` does when it starts."""
    running, announced = ledger.add(file_version("running"), file_version("announced"))
    assert [scan.id for scan in ledger.claimed(1).scans] == [running]
    ledger.mark_announced()
    assert ledger.row(announced)["announced_at"]
    ledger.database.write(lambda c: transitions.release_all(c, 3, "up"))
    for scan_id in (running, announced):
        row = ledger.row(scan_id)
        assert (row["state"], row["announced_at"], row["claim_token"]) == ("queued", None, None)
    assert ledger.moves(running)[-1] == ("running", "queued")
