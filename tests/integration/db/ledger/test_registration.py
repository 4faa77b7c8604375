"""Registration of the watcher's observations: one row for each content at each path, however often it is seen."""

import threading
from dataclasses import replace

import pytest
from sqlalchemy import Connection
from support.ledger_driver import (
    BY,
    LEASE,
    LedgerDriver,
    classified,
    deferred,
    file_version,
    rejected,
    run_concurrently,
    wait_until_another_waits,
)
from support.query_plans import explain

from db.ledger import registration, transitions
from db.states import Reason

OTHER = {"size": 200, "mtime_ns": 2}
QUEUED = (None, "queued")


def test_a_new_file_waits_announced(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.register(file_version("ward/a.png")).to_announce
    row = ledger.row(scan_id)
    assert (row["state"], row["path"], row["path_bytes"]) == ("queued", "ward/a.png", b"ward/a.png")
    assert row["announced_at"] is not None
    assert ledger.moves(scan_id) == [QUEUED]


def test_a_name_that_is_no_utf8_keeps_its_bytes(ledger: LedgerDriver) -> None:
    file = replace(file_version(), path=b"r\xf6ntgen\n.png")
    (scan_id,) = ledger.register(file).to_announce
    assert ledger.row(scan_id)["path_bytes"] == file.path
    assert ledger.register(file).to_announce == []


def test_a_path_of_four_thousand_bytes(ledger: LedgerDriver) -> None:
    file = replace(file_version(), path=b"/".join([b"x" * 250] * 16))
    assert len(ledger.register(file).to_announce) == 1
    assert ledger.unregistered(file) == []


def test_a_known_file_is_left_alone(ledger: LedgerDriver) -> None:
    ledger.add(file_version())
    again = ledger.register(file_version())
    assert (again.to_announce, again.busy) == ([], [])
    assert ledger.event_count() == 1


def test_the_same_file_twice_in_one_burst_is_one_row_with_the_last_look(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.register(file_version(), file_version(**OTHER)).to_announce
    assert ledger.states() == {scan_id: "queued"}
    assert ledger.row(scan_id)["size"] == 200


def test_the_same_path_in_two_inboxes_is_two_scans(ledger: LedgerDriver) -> None:
    assert len(ledger.register(file_version(), file_version(inbox="ward")).to_announce) == 2


def test_a_burst_larger_than_one_query(ledger: LedgerDriver) -> None:
    files = [file_version(f"{number}.png") for number in range(1500)]
    assert len(ledger.register(*files).to_announce) == 1500
    assert ledger.register(*files).to_announce == []
    assert ledger.unregistered(*files, file_version("new.png")) == [file_version("new.png")]


def test_a_file_changed_while_it_waits_keeps_its_row(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.add(file_version())
    before = ledger.row(scan_id)
    assert ledger.register(file_version(**OTHER)).to_announce == [scan_id]
    row = ledger.row(scan_id)
    assert (row["size"], row["mtime_ns"], row["state"]) == (200, 2, "queued")
    assert row["changed_at"] > before["changed_at"]
    assert row["received_at"] == before["received_at"]
    assert ledger.moves(scan_id) == [QUEUED]


def test_a_file_changed_while_it_is_read_is_busy(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.add(file_version())
    claim = ledger.claimed()
    result = ledger.register(file_version(**OTHER))
    assert (result.to_announce, result.busy) == ([], [file_version(**OTHER)])
    assert ledger.row(scan_id)["size"] == 100
    ledger.finish(claim, deferred(scan_id))
    assert ledger.register(file_version(**OTHER)).to_announce == [scan_id]


def test_a_finished_file_that_changed_is_a_new_scan_which_supersedes_the_old(ledger: LedgerDriver) -> None:
    (old,) = ledger.classify(file_version())
    (new,) = ledger.register(file_version(**OTHER)).to_announce
    assert ledger.states() == {old: "classified", new: "queued"}
    assert ledger.row(old)["superseded_by"] == new
    assert ledger.row(new)["superseded_by"] is None


@pytest.mark.parametrize("reason", [Reason.UNREADABLE, Reason.VANISHED])
def test_a_rejected_file_that_changed_is_a_new_scan(ledger: LedgerDriver, reason: Reason) -> None:
    old = ledger.reject(file_version(), reason)
    (new,) = ledger.register(file_version(**OTHER)).to_announce
    assert ledger.states() == {old: "rejected", new: "queued"}
    assert ledger.row(old)["superseded_by"] == new


def test_each_content_supersedes_the_one_before(ledger: LedgerDriver) -> None:
    ids = [ledger.classify(file_version(size=size), sha256=f"{size:064x}")[0] for size in (1, 2, 3)]
    assert [ledger.row(id_)["superseded_by"] for id_ in ids] == [ids[1], ids[2], None]


def test_a_vanished_file_that_is_seen_again_is_queued_again(ledger: LedgerDriver) -> None:
    scan_id = ledger.reject(file_version(), Reason.VANISHED)
    assert ledger.unregistered(file_version()) == [file_version()]
    assert ledger.register(file_version()).to_announce == [scan_id]
    row = ledger.row(scan_id)
    assert (row["state"], row["reason"], row["finished_at"]) == ("queued", None, None)
    assert ledger.moves(scan_id)[-2:] == [("running", "rejected"), ("rejected", "queued")]


def test_what_is_to_be_announced_is_marked_as_announced(ledger: LedgerDriver) -> None:
    """Otherwise the sweep, a second later, would announce it once more."""
    vanished = ledger.reject(file_version("gone.png"), Reason.VANISHED)
    (waiting,) = ledger.add(file_version("waits.png"))
    to_announce = ledger.register(
        file_version("new.png"), file_version("waits.png", **OTHER), file_version("gone.png")
    ).to_announce
    assert set(to_announce) > {waiting, vanished}
    assert len(to_announce) == 3
    assert all(ledger.row(id_)["announced_at"] is not None for id_ in to_announce)


def test_a_rejected_file_that_did_not_change_stays_rejected(ledger: LedgerDriver) -> None:
    ledger.reject(file_version(), Reason.UNREADABLE)
    assert ledger.unregistered(file_version()) == []
    assert ledger.register(file_version()).to_announce == []


def test_content_that_came_back_is_current_again(ledger: LedgerDriver) -> None:
    """A flagged image, replaced, then restored with its time stamp: it must not stay hidden as superseded."""
    (first,) = ledger.classify(file_version())
    (second,) = ledger.classify(file_version(**OTHER))
    assert ledger.row(first)["superseded_by"] == second
    ledger.register(file_version())
    assert ledger.row(first)["superseded_by"] is None
    assert ledger.row(second)["superseded_by"] == first
    assert ledger.states() == {first: "classified", second: "classified"}
    assert ledger.unregistered(file_version()) == []
    ledger.register(file_version(**OTHER))
    assert ledger.row(first)["superseded_by"] == second
    assert ledger.row(second)["superseded_by"] is None


@pytest.mark.parametrize("reason", [Reason.VANISHED, Reason.SUPERSEDED])
def test_content_that_came_back_unread_is_read(ledger: LedgerDriver, reason: Reason) -> None:
    first = ledger.reject(file_version(), reason)
    (second,) = ledger.classify(file_version(**OTHER))
    assert ledger.unregistered(file_version()) == [file_version()]
    assert ledger.register(file_version()).to_announce == [first]
    assert ledger.states() == {first: "queued", second: "classified"}
    assert ledger.row(first)["superseded_by"] is None
    assert ledger.row(second)["superseded_by"] == first


def test_content_that_came_back_while_its_successor_waits(ledger: LedgerDriver) -> None:
    """The waiting row finds the older content in its place: the older one is current again, and no case is hidden."""
    (first,) = ledger.classify(file_version())
    (second,) = ledger.add(file_version(**OTHER))
    ledger.register(file_version())
    if ledger.state(second) == "queued":
        ledger.finish(ledger.claimed(), deferred(second, size=100, mtime_ns=1))
    assert ledger.states() == {first: "classified", second: "rejected"}
    assert ledger.row(second)["reason"] == "superseded"
    assert ledger.row(second)["superseded_by"] == first
    assert ledger.row(first)["superseded_by"] is None


def test_many_watchers_at_once_make_one_row_a_file(ledger: LedgerDriver) -> None:
    files = [file_version(f"{number}.png") for number in range(200)]
    results = run_concurrently(
        *(lambda order=order: ledger.register(*order) for order in (files, files[::-1], files, files[::-1]))
    )
    announced = [id_ for result in results for id_ in result.to_announce]
    assert len(announced) == len(set(announced)) == 200
    assert sorted(announced) == list(ledger.states())
    assert ledger.event_count() == 200


def test_two_watchers_that_see_a_file_replaced_make_one_successor(ledger: LedgerDriver) -> None:
    (old,) = ledger.classify(file_version())
    results = run_concurrently(*[lambda: ledger.register(file_version(**OTHER))] * 2)
    (new,) = [id_ for result in results for id_ in result.to_announce]
    assert ledger.states() == {old: "classified", new: "queued"}
    assert ledger.row(old)["superseded_by"] == new


def test_a_row_that_is_claimed_in_the_moment_it_changes_is_busy(ledger: LedgerDriver) -> None:
    """The watcher has read it as waiting; by the time it would follow its file, a worker has it."""
    (scan_id,) = ledger.add(file_version())
    claimed, arrived = threading.Event(), []

    def claim() -> None:
        def work(connection: Connection) -> None:
            transitions.claim(connection, 1, BY, LEASE)
            claimed.set()
            wait_until_another_waits(connection)  # the watcher still reads `queued`, and waits at the row

        ledger.database.write(work)

    def register() -> None:
        assert claimed.wait(60)
        arrived.append(ledger.register(file_version(**OTHER)))

    run_concurrently(claim, register)
    (result,) = arrived
    assert (result.to_announce, result.busy) == ([], [file_version(**OTHER)])
    assert ledger.row(scan_id)["size"] == 100


def test_a_rejection_for_newer_content_names_its_successor(ledger: LedgerDriver) -> None:
    (first,) = ledger.classify(file_version())
    (second,) = ledger.add(file_version(**OTHER))
    claim = ledger.claimed()
    ledger.finish(claim, deferred(second, size=100, mtime_ns=1))
    row = ledger.row(second)
    assert (row["state"], row["reason"], row["superseded_by"]) == ("rejected", "superseded", first)
    assert ledger.moves(second) == [QUEUED, ("queued", "running"), ("running", "rejected")]


def test_classified_and_rejected_in_one_burst(ledger: LedgerDriver) -> None:
    one, two = ledger.add(file_version("1.png"), file_version("2.png"))
    ledger.finish(ledger.claimed(), classified(one), rejected(two))
    result = ledger.register(file_version("1.png"), file_version("2.png"), file_version("3.png"))
    assert len(result.to_announce) == 1


def test_known_files_are_found_by_their_paths_before_postgresql_knows_the_table(postgres_ledger: LedgerDriver) -> None:
    """Any other index would read all rows of the inbox for a few files."""
    files = [file_version(f"{number}.png") for number in range(3000)]
    postgres_ledger.register(*files)
    for work in (registration.unregistered_files, lambda c, some: registration.register_files(c, some, BY)):
        plans = explain(postgres_ledger.database, lambda c, work=work: work(c, files[500:900]))
        reads = [plan for plan in plans if "on scans" in plan]
        assert reads
        assert all("uq_scans_path_sha256" in plan for plan in reads), reads
