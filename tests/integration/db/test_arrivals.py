"""What the watcher saw becomes rows: once for each content at each path, whoever sees it and however often."""

import threading
from dataclasses import replace

import pytest
from books import BY, LEASE, Book, at_once, classified, deferred, rejected, seen, wait_until_another_waits
from plans import explain
from sqlalchemy import Connection

from db.ledger import registration, transitions
from db.states import Reason

OTHER = {"size": 200, "mtime_ns": 2}
QUEUED = (None, "queued")


def test_a_new_file_waits_announced(book: Book) -> None:
    (scan_id,) = book.arrive(seen("ward/a.png")).to_announce
    row = book.row(scan_id)
    assert (row["state"], row["path"], row["path_bytes"]) == ("queued", "ward/a.png", b"ward/a.png")
    assert row["announced_at"] is not None
    assert book.moves(scan_id) == [QUEUED]


def test_a_name_that_is_no_utf8_keeps_its_bytes(book: Book) -> None:
    file = replace(seen(), path=b"r\xf6ntgen\n.png")
    (scan_id,) = book.arrive(file).to_announce
    assert book.row(scan_id)["path_bytes"] == file.path
    assert book.arrive(file).to_announce == []


def test_a_path_of_four_thousand_bytes(book: Book) -> None:
    file = replace(seen(), path=b"/".join([b"x" * 250] * 16))
    assert len(book.arrive(file).to_announce) == 1
    assert book.unknown(file) == []


def test_a_known_file_is_left_alone(book: Book) -> None:
    book.add(seen())
    again = book.arrive(seen())
    assert (again.to_announce, again.busy) == ([], [])
    assert book.event_count() == 1


def test_the_same_file_twice_in_one_burst_is_one_row_with_the_last_look(book: Book) -> None:
    (scan_id,) = book.arrive(seen(), seen(**OTHER)).to_announce
    assert book.states() == {scan_id: "queued"}
    assert book.row(scan_id)["size"] == 200


def test_the_same_path_in_two_inboxes_is_two_scans(book: Book) -> None:
    assert len(book.arrive(seen(), seen(inbox="ward")).to_announce) == 2


def test_a_burst_larger_than_one_query(book: Book) -> None:
    files = [seen(f"{number}.png") for number in range(1500)]
    assert len(book.arrive(*files).to_announce) == 1500
    assert book.arrive(*files).to_announce == []
    assert book.unknown(*files, seen("new.png")) == [seen("new.png")]


def test_a_file_changed_while_it_waits_keeps_its_row(book: Book) -> None:
    (scan_id,) = book.add(seen())
    before = book.row(scan_id)
    assert book.arrive(seen(**OTHER)).to_announce == [scan_id]
    row = book.row(scan_id)
    assert (row["size"], row["mtime_ns"], row["state"]) == (200, 2, "queued")
    assert row["changed_at"] > before["changed_at"]
    assert row["received_at"] == before["received_at"]
    assert book.moves(scan_id) == [QUEUED]


def test_a_file_changed_while_it_is_read_is_busy(book: Book) -> None:
    (scan_id,) = book.add(seen())
    claim = book.claimed()
    result = book.arrive(seen(**OTHER))
    assert (result.to_announce, result.busy) == ([], [seen(**OTHER)])
    assert book.row(scan_id)["size"] == 100
    book.finish(claim, deferred(scan_id))
    assert book.arrive(seen(**OTHER)).to_announce == [scan_id]


def test_a_finished_file_that_changed_is_a_new_scan_which_supersedes_the_old(book: Book) -> None:
    (old,) = book.classify(seen())
    (new,) = book.arrive(seen(**OTHER)).to_announce
    assert book.states() == {old: "classified", new: "queued"}
    assert book.row(old)["superseded_by"] == new
    assert book.row(new)["superseded_by"] is None


@pytest.mark.parametrize("reason", [Reason.UNREADABLE, Reason.VANISHED])
def test_a_rejected_file_that_changed_is_a_new_scan(book: Book, reason: Reason) -> None:
    old = book.reject(seen(), reason)
    (new,) = book.arrive(seen(**OTHER)).to_announce
    assert book.states() == {old: "rejected", new: "queued"}
    assert book.row(old)["superseded_by"] == new


def test_each_content_supersedes_the_one_before(book: Book) -> None:
    ids = [book.classify(seen(size=size), sha256=f"{size:064x}")[0] for size in (1, 2, 3)]
    assert [book.row(id_)["superseded_by"] for id_ in ids] == [ids[1], ids[2], None]


def test_a_vanished_file_that_is_seen_again_is_queued_again(book: Book) -> None:
    scan_id = book.reject(seen(), Reason.VANISHED)
    assert book.unknown(seen()) == [seen()]
    assert book.arrive(seen()).to_announce == [scan_id]
    row = book.row(scan_id)
    assert (row["state"], row["reason"], row["finished_at"]) == ("queued", None, None)
    assert book.moves(scan_id)[-2:] == [("running", "rejected"), ("rejected", "queued")]


def test_what_is_to_be_announced_is_marked_as_announced(book: Book) -> None:
    """Else the sweep, a second later, announces it once more."""
    vanished = book.reject(seen("gone.png"), Reason.VANISHED)
    (waiting,) = book.add(seen("waits.png"))
    to_announce = book.arrive(seen("new.png"), seen("waits.png", **OTHER), seen("gone.png")).to_announce
    assert set(to_announce) > {waiting, vanished}
    assert len(to_announce) == 3
    assert all(book.row(id_)["announced_at"] is not None for id_ in to_announce)


def test_a_rejected_file_that_did_not_change_stays_rejected(book: Book) -> None:
    book.reject(seen(), Reason.UNREADABLE)
    assert book.unknown(seen()) == []
    assert book.arrive(seen()).to_announce == []


def test_content_that_came_back_is_current_again(book: Book) -> None:
    """A flagged film, replaced, then restored with its time stamp: it must not stay hidden as superseded."""
    (first,) = book.classify(seen())
    (second,) = book.classify(seen(**OTHER))
    assert book.row(first)["superseded_by"] == second
    book.arrive(seen())
    assert book.row(first)["superseded_by"] is None
    assert book.row(second)["superseded_by"] == first
    assert book.states() == {first: "classified", second: "classified"}
    assert book.unknown(seen()) == []
    book.arrive(seen(**OTHER))
    assert book.row(first)["superseded_by"] == second
    assert book.row(second)["superseded_by"] is None


@pytest.mark.parametrize("reason", [Reason.VANISHED, Reason.SUPERSEDED])
def test_content_that_came_back_unread_is_read(book: Book, reason: Reason) -> None:
    first = book.reject(seen(), reason)
    (second,) = book.classify(seen(**OTHER))
    assert book.unknown(seen()) == [seen()]
    assert book.arrive(seen()).to_announce == [first]
    assert book.states() == {first: "queued", second: "classified"}
    assert book.row(first)["superseded_by"] is None
    assert book.row(second)["superseded_by"] == first


def test_content_that_came_back_while_its_successor_waits(book: Book) -> None:
    """The waiting row finds the older content in its place: the older one is current again, and nobody is hidden."""
    (first,) = book.classify(seen())
    (second,) = book.add(seen(**OTHER))
    book.arrive(seen())
    if book.state(second) == "queued":
        book.finish(book.claimed(), deferred(second, size=100, mtime_ns=1))
    assert book.states() == {first: "classified", second: "rejected"}
    assert book.row(second)["reason"] == "superseded"
    assert book.row(second)["superseded_by"] == first
    assert book.row(first)["superseded_by"] is None


def test_many_watchers_at_once_make_one_row_a_file(book: Book) -> None:
    files = [seen(f"{number}.png") for number in range(200)]
    results = at_once(*(lambda order=order: book.arrive(*order) for order in (files, files[::-1], files, files[::-1])))
    announced = [id_ for result in results for id_ in result.to_announce]
    assert len(announced) == len(set(announced)) == 200
    assert sorted(announced) == list(book.states())
    assert book.event_count() == 200


def test_two_watchers_that_see_a_file_replaced_make_one_successor(book: Book) -> None:
    (old,) = book.classify(seen())
    results = at_once(*[lambda: book.arrive(seen(**OTHER))] * 2)
    (new,) = [id_ for result in results for id_ in result.to_announce]
    assert book.states() == {old: "classified", new: "queued"}
    assert book.row(old)["superseded_by"] == new


def test_a_row_that_is_claimed_in_the_moment_it_changes_is_busy(book: Book) -> None:
    """The watcher has read it as waiting; by the time it would follow its file, a worker has it."""
    (scan_id,) = book.add(seen())
    claimed, arrived = threading.Event(), []

    def claim() -> None:
        def work(connection: Connection) -> None:
            transitions.claim(connection, 1, BY, LEASE)
            claimed.set()
            wait_until_another_waits(connection)  # the watcher still reads `queued`, and waits at the row

        book.database.write(work)

    def arrive() -> None:
        assert claimed.wait(60)
        arrived.append(book.arrive(seen(**OTHER)))

    at_once(claim, arrive)
    (result,) = arrived
    assert (result.to_announce, result.busy) == ([], [seen(**OTHER)])
    assert book.row(scan_id)["size"] == 100


def test_a_rejection_for_newer_content_names_its_successor(book: Book) -> None:
    (first,) = book.classify(seen())
    (second,) = book.add(seen(**OTHER))
    claim = book.claimed()
    book.finish(claim, deferred(second, size=100, mtime_ns=1))
    row = book.row(second)
    assert (row["state"], row["reason"], row["superseded_by"]) == ("rejected", "superseded", first)
    assert book.moves(second) == [QUEUED, ("queued", "running"), ("running", "rejected")]


def test_classified_and_rejected_in_one_burst(book: Book) -> None:
    one, two = book.add(seen("1.png"), seen("2.png"))
    book.finish(book.claimed(), classified(one), rejected(two))
    result = book.arrive(seen("1.png"), seen("2.png"), seen("3.png"))
    assert len(result.to_announce) == 1


def test_known_files_are_found_by_their_paths_before_postgresql_knows_the_table(postgres_book: Book) -> None:
    """By any other index it would read all rows of the inbox for each few files."""
    files = [seen(f"{number}.png") for number in range(3000)]
    postgres_book.arrive(*files)
    for work in (registration.unregistered_files, lambda c, some: registration.register_files(c, some, BY)):
        plans = explain(postgres_book.database, lambda c, work=work: work(c, files[500:900]))
        reads = [plan for plan in plans if "on scans" in plan]
        assert reads
        assert all("uq_scans_path_sha256" in plan for plan in reads), reads
