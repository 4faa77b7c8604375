"""Workers that die: their scans go back, suspects are read alone, and only what kills alone is failed."""

from datetime import timedelta

from books import Book, classified, rejected, seen

from db.ledger import transitions
from db.models import Scan
from db.states import Reason


def die_alone(book: Book, scan_id: int, max_attempts: int = 3) -> None:
    claim = book.claimed()
    assert [scan.id for scan in claim.scans] == [scan_id]
    book.renew(claim, exclusive=True)
    assert book.expire(claim, max_attempts) == 1


def test_a_lease_that_ran_out_puts_the_scan_back_as_a_suspect(book: Book) -> None:
    (scan_id,) = book.add(seen())
    claim = book.claimed()
    assert book.expire(claim) == 1
    row = book.row(scan_id)
    assert (row["state"], row["lost_leases"], row["lost_leases_exclusive"], row["announced_at"]) == (
        "queued",
        1,
        0,
        None,
    )
    assert (row["claim_token"], row["claimed_by"], row["leased_until"]) == (None, None, None)
    assert book.moves(scan_id)[-1] == ("running", "queued")
    assert book.claimed().quarantined


def test_expired_twice_counts_once(book: Book) -> None:
    (scan_id,) = book.add(seen())
    claim = book.claimed()
    assert book.expire(claim) == 1
    assert book.expire(claim) == 0
    assert book.row(scan_id)["lost_leases"] == 1
    book.claimed()
    assert book.expire(claim) == 0  # the token is an older claim's
    assert book.state(scan_id) == "running"


def test_failed_only_after_max_attempts_deaths_alone(book: Book) -> None:
    (scan_id,) = book.add(seen())
    book.expire(book.claimed(), 2)  # the first death was in a batch, and counts against nobody
    die_alone(book, scan_id, 2)
    assert book.state(scan_id) == "queued"
    die_alone(book, scan_id, 2)
    row = book.row(scan_id)
    assert (row["state"], row["lost_leases"], row["lost_leases_exclusive"]) == ("failed", 3, 2)
    assert row["detail"]
    assert row["finished_at"] is not None
    assert book.moves(scan_id)[-1] == ("running", "failed")
    assert book.claim() is None


def test_a_killer_fails_and_its_batch_mates_never(book: Book) -> None:
    killer, *innocent = book.add(*(seen(name) for name in "1234"))
    for _ in range(20):
        claim = book.claim()
        if claim is None:
            break
        held = [scan.id for scan in claim.scans]
        if claim.quarantined:
            book.renew(claim, exclusive=True)
        if killer in held:
            book.expire(claim)
        else:
            book.finish(claim, *map(classified, held))
    assert book.states() == {killer: "failed", **dict.fromkeys(innocent, "classified")}


def test_many_deaths_in_company_fail_nobody(book: Book) -> None:
    (scan_id,) = book.add(seen())
    for _ in range(10):
        book.expire(book.claimed(), max_attempts=1)
    assert book.state(scan_id) == "queued"
    assert book.row(scan_id)["lost_leases"] == 10


def rest_over(book: Book, scan_id: int, times: int) -> None:
    """The time that a film lets others go first has passed."""
    book.set(scan_id, not_before=transitions.utc_now() - transitions.COOLDOWNS[times - 1])


def test_a_suspect_whose_worker_died_lets_others_go_first_for_a_while(book: Book) -> None:
    """Or the film with which a worker begins would die of each worker that is killed as soon as it begins."""
    first, *others = book.add(*(seen(name) for name in "123"))
    book.expire(book.claimed(1))
    die_alone(book, first)
    assert [scan.id for scan in book.claimed(1).scans] == others[:1]
    rest_over(book, first, 1)
    die_alone(book, first)
    rest_over(book, first, 1)
    assert [scan.id for scan in book.claimed(1).scans] == others[1:]
    (late,) = book.add(seen("4"))
    rest_over(book, first, 2)
    die_alone(book, first)
    assert book.states()[first] == "failed"
    assert [scan.id for scan in book.claimed(1).scans] == [late]


def test_where_nothing_else_waits_a_suspect_need_not_rest(book: Book) -> None:
    (scan_id,) = book.add(seen())
    book.expire(book.claimed(1))
    for _ in range(3):
        die_alone(book, scan_id)
    assert book.state(scan_id) == "failed"


def test_a_worker_killed_twenty_times_as_soon_as_it_holds_a_film_fails_none(book: Book) -> None:
    """The worst case: never a film is finished between two deaths. 8 films are taken at once, more arrive."""
    ids = book.add(*(seen(f"first {number}") for number in range(8)))
    for number in range(20):
        ids += book.add(seen(f"later {number}"))
        claim = book.claimed(8)
        if claim.quarantined:
            book.renew(claim, exclusive=True)
        book.expire(claim)
    rows = [book.row(scan_id) for scan_id in ids]
    assert {row["state"] for row in rows} == {"queued"}
    assert max(row["lost_leases_exclusive"] for row in rows) == 1
    for _ in range(2 * len(ids)):
        if claim := book.claim(8):
            book.finish(claim, *(classified(scan.id) for scan in claim.scans))
    assert set(book.states().values()) == {"classified"}


def test_what_is_given_up_says_why_and_waits_longer_each_time(book: Book) -> None:
    (scan_id,) = book.add(seen())

    def give_up(exclusive: bool) -> float:
        claim = book.claimed()
        if exclusive:
            book.renew(claim, exclusive=True)
        pairs, pause = [(scan_id, claim.token)], timedelta(seconds=5)
        at = transitions.utc_now()
        why = "reading it ended in an error (KeyError)"
        book.database.write(lambda c: transitions.expire_claims(c, pairs, 3, "worker", why, pause))
        wait = (book.row(scan_id)["not_before"] - at).total_seconds()
        book.set(scan_id, not_before=at)
        return wait

    assert [round(give_up(exclusive)) for exclusive in (False, True, True)] == [0, 5, 10]
    assert book.events(scan_id)[-1]["detail"] == "reading it ended in an error (KeyError)"
    give_up(exclusive=True)
    assert book.state(scan_id) == "failed"
    assert "KeyError" in book.row(scan_id)["detail"]


def test_a_lease_that_was_lost_cannot_be_renewed(book: Book) -> None:
    book.add(seen())
    claim = book.claimed()
    assert book.database.write(lambda c: transitions.renew_lease(c, claim, timedelta(seconds=9)))
    book.expire(claim)
    assert not book.database.write(lambda c: transitions.renew_lease(c, claim, timedelta(seconds=9), exclusive=True))
    assert not book.row(claim.scans[0].id)["exclusive"]


def test_requeue_gives_a_failed_scan_a_clean_slate(book: Book) -> None:
    (scan_id,) = book.add(seen())
    die_alone(book, scan_id, 1)
    assert book.state(scan_id) == "failed"
    assert book.requeue() == [scan_id]
    row = book.row(scan_id)
    assert (row["state"], row["lost_leases"], row["lost_leases_exclusive"], row["exclusive"]) == ("queued", 0, 0, False)
    assert (row["finished_at"], row["detail"], row["announced_at"]) == (None, None, None)
    assert book.moves(scan_id)[-1] == ("failed", "queued")
    assert not book.claimed().quarantined


def test_requeue_takes_what_is_asked_for_and_can_be_requeued(book: Book) -> None:
    empty = book.reject(seen("1"), Reason.EMPTY)
    damaged = book.reject(seen("2"), Reason.UNREADABLE)
    (done,) = book.classify(seen("3"))
    (twin,) = book.classify(seen("4"), sha256=f"{done:064x}")
    (held,) = book.add(seen("5"))
    book.claimed()
    (waiting,) = book.add(seen("6"))
    assert book.requeue(Scan.reason == Reason.EMPTY) == [empty]
    assert book.requeue() == [damaged]
    assert book.requeue() == []
    assert book.states() == {
        empty: "queued", damaged: "queued", done: "classified", twin: "duplicate", held: "running", waiting: "queued",
    }  # fmt: skip


def test_requeue_leaves_superseded_scans(book: Book) -> None:
    """Their content is gone: they could only be rejected again."""
    old = book.reject(seen())
    book.arrive(seen(size=200))
    assert book.requeue() == []
    assert book.state(old) == "rejected"


def test_a_requeued_scan_follows_its_file(book: Book) -> None:
    scan_id = book.reject(seen())
    book.requeue()
    assert book.arrive(seen(size=200)).to_announce == [scan_id]
    book.finish(book.claimed(), rejected(scan_id))
    assert book.row(scan_id)["size"] == 200


def test_who_is_alone_releases_what_others_had_claimed_or_announced(book: Book) -> None:
    """As `up` does when it starts."""
    running, announced = book.add(seen("running"), seen("announced"))
    assert [scan.id for scan in book.claimed(1).scans] == [running]
    book.ring()
    assert book.row(announced)["announced_at"]
    book.database.write(lambda c: transitions.release_all(c, 3, "up"))
    for scan_id in (running, announced):
        row = book.row(scan_id)
        assert (row["state"], row["announced_at"], row["claim_token"]) == ("queued", None, None)
    assert book.moves(running)[-1] == ("running", "queued")
