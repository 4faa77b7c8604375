"""The SQL views: their columns are a contract, and what they leave out must be nobody's worry."""

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from books import MODEL, Book, at_once, classified, deferred, rejected, seen, wait_until_another_waits
from sqlalchemy import Connection, text

from db.ledger import queries, registration, transitions
from db.states import Reason, State
from db.worklist import unscored
from pneumowatch.header import Header

# fmt: off
COLUMNS = [
    "scan_id", "source", "path", "state", "reason", "detail", "priority", "received_at", "finished_at", "sha256",
    "probability", "flagged", "caution", "model_version", "threshold", "verdict", "reviewer", "reviewed_at",
    "duplicate_of", "superseded_by", "study_uid", "series_uid", "sop_uid", "accession_number", "modality",
    "view_position", "age_years", "sex", "patient_key",
]
# fmt: on
LONG_AGO = timedelta(minutes=61)


def ids(book: Book, view: str, where: str = "") -> list[int]:
    return book.database.read(lambda c: list(c.scalars(text(f"SELECT scan_id FROM {view} {where}"))))


def read(book: Book, name: str, probability: float, flagged: bool = True, sha256: str | None = None) -> int:
    (scan_id,) = book.add(seen(name))
    book.finish(book.claimed(), classified(scan_id, sha256, probability, flagged))
    return scan_id


@pytest.mark.parametrize("view", queries.VIEWS)
def test_columns(book: Book, view: str) -> None:
    found = book.database.read(lambda c: list(c.execute(text(f"SELECT * FROM {view}")).keys()))
    assert found == COLUMNS


def test_the_ledger_has_one_row_a_scan_in_every_state(book: Book) -> None:
    one = read(book, "1", 0.9)
    twin = read(book, "2", 0.9, sha256=book.row(one)["sha256"])
    out = book.reject(seen("3"))
    (held,) = book.add(seen("4"))
    book.claimed()
    (waits,) = book.add(seen("ward/5", inbox="er"))
    listed = {row["scan_id"]: row for row in book.database.read(lambda c: queries.view_rows(c, "scan_ledger", 100))}
    states = {one: "classified", twin: "duplicate", out: "rejected", held: "running", waits: "queued"}
    assert {scan_id: row["state"] for scan_id, row in listed.items()} == states
    assert (listed[waits]["source"], listed[waits]["path"]) == ("er", "ward/5")
    assert (listed[out]["reason"], listed[out]["detail"], listed[out]["flagged"]) == ("unreadable", "A sentence.", None)


def test_a_duplicate_shows_its_originals_result(book: Book) -> None:
    original = read(book, "1", 0.75)
    twin = read(book, "2", 0.1, flagged=False, sha256=book.row(original)["sha256"])
    rows = {row["scan_id"]: row for row in book.database.read(lambda c: queries.view_rows(c, "scan_ledger", 9))}
    result = ("probability", "flagged", "model_version", "threshold", "caution")
    assert [rows[twin][name] for name in result] == [0.75, True, MODEL, 0.5, None]
    assert (rows[twin]["state"], rows[twin]["duplicate_of"]) == ("duplicate", original)


def test_times_and_booleans_have_their_types_in_listings(book: Book) -> None:
    read(book, "1", 0.75)
    (row,) = book.database.read(lambda c: queries.view_rows(c, "flagged_cases", 9))
    assert row["flagged"] is True
    assert isinstance(row["received_at"], datetime)
    assert row["received_at"].tzinfo is UTC
    assert row["reviewed_at"] is None


def test_flagged_cases_most_probable_first(book: Book) -> None:
    middle, high, low = read(book, "1", 0.7), read(book, "2", 0.99), read(book, "3", 0.51)
    read(book, "4", 0.2, flagged=False)
    assert ids(book, "flagged_cases") == [high, middle, low]
    assert ids(book, "flagged_cases", "WHERE verdict IS NULL") == [high, middle, low]
    book.set(high, verdict="pneumonia")
    assert ids(book, "flagged_cases", "WHERE verdict IS NULL") == [middle, low]


def test_flagged_cases_leave_out_duplicates(book: Book) -> None:
    original = read(book, "1", 0.9)
    read(book, "2", 0.9, sha256=book.row(original)["sha256"])
    assert ids(book, "flagged_cases") == [original]


def test_flagged_cases_leave_out_superseded_scans(book: Book) -> None:
    read(book, "1", 0.9)
    (newer,) = book.arrive(seen("1", size=200)).to_announce
    assert ids(book, "flagged_cases") == []
    book.finish(book.claimed(), classified(newer))
    assert ids(book, "flagged_cases") == [newer]


def test_flagged_cases_show_the_film_that_was_replaced_and_came_back(book: Book) -> None:
    flagged = read(book, "1", 0.9)
    book.classify(seen("1", size=200), flagged=False)
    assert ids(book, "flagged_cases") == []
    book.arrive(seen("1"))
    assert ids(book, "flagged_cases") == [flagged]


def cases(book: Book) -> list[tuple[int, str]]:
    """(scan, path) of each flagged case."""
    rows = book.database.read(lambda c: queries.view_rows(c, "flagged_cases", 100))
    assert all((row["state"], row["superseded_by"], row["duplicate_of"]) == ("classified", None, None) for row in rows)
    return [(row["scan_id"], row["path"]) for row in rows]


def test_a_case_whose_file_was_replaced_stands_where_its_copy_does(book: Book) -> None:
    original = read(book, "1", 0.9)
    sha256 = book.row(original)["sha256"]
    first, second = (read(book, name, 0.9, sha256=sha256) for name in ("2", "3"))
    book.classify(seen("1", size=200), flagged=False)
    assert cases(book) == [(original, "2")]
    book.classify(seen("2", size=200), sha256="1" * 64, flagged=False)
    assert cases(book) == [(original, "3")]
    book.classify(seen("3", size=200), sha256="2" * 64, flagged=False)
    assert cases(book) == []  # its content stands nowhere
    book.arrive(seen("3"))
    assert cases(book) == [(original, "3")]
    book.arrive(seen("2"))
    assert cases(book) == [(original, "2")]
    book.arrive(seen("1"))
    assert cases(book) == [(original, "1")]
    assert book.row(original)["current_duplicate"] is None
    assert [book.state(id_) for id_ in (original, first, second)] == ["classified", "duplicate", "duplicate"]


def test_a_copy_of_a_film_that_was_replaced_before_is_a_case(book: Book) -> None:
    original = read(book, "1", 0.9)
    book.classify(seen("1", size=200), flagged=False)
    copy = read(book, "2", 0.9, sha256=book.row(original)["sha256"])
    assert cases(book) == [(original, "2")]
    assert (book.state(copy), book.row(original)["current_duplicate"]) == ("duplicate", copy)


def test_a_film_replaced_by_itself_under_a_corrected_header_stays_a_case(book: Book) -> None:
    header = Header(sop_uid="1.2", pixels_sha256="d" * 64)
    (original,) = book.add(seen("1"))
    book.finish(book.claimed(), replace(classified(original), header=header))
    (corrected,) = book.add(seen("1", size=200))
    assert cases(book) == []  # until it has been read, anything may stand there
    book.finish(book.claimed(), replace(classified(corrected), header=header))
    assert (book.state(corrected), book.row(original)["superseded_by"]) == ("duplicate", corrected)
    assert cases(book) == [(original, "1")]


def test_a_verdict_on_a_case_stays_when_its_file_is_replaced(book: Book) -> None:
    original = read(book, "1", 0.9)
    read(book, "2", 0.9, sha256=book.row(original)["sha256"])
    book.set(original, verdict="no_pneumonia")
    book.arrive(seen("1", size=200))
    assert ids(book, "flagged_cases") == [original]
    assert ids(book, "flagged_cases", "WHERE verdict IS NULL") == []


@pytest.mark.parametrize("first", ["worker", "watcher"])
def test_a_file_replaced_while_its_copy_is_read_hides_no_case(book: Book, first: str) -> None:
    """The second of them begins before the first commits."""
    original = read(book, "1", 0.9)
    (copy,) = book.add(seen("2"))
    claim, twin = book.claimed(), classified(copy, book.row(original)["sha256"])
    works = {
        "worker": lambda c: transitions.record_outcomes(c, claim.token, [twin], "worker"),
        "watcher": lambda c: registration.register_files(c, [seen("1", size=200)], "watcher"),
    }
    done = threading.Event()

    def slowly(connection: Connection) -> None:
        works[first](connection)
        done.set()
        wait_until_another_waits(connection)

    def meanwhile() -> None:
        assert done.wait(60)
        (second,) = works.keys() - {first}
        book.database.write(works[second])

    at_once(lambda: book.database.write(slowly), meanwhile)
    assert cases(book) == [(original, "2")]


def test_many_files_replaced_while_their_copies_are_read_hide_no_case(book: Book) -> None:
    pairs = 12
    originals = [read(book, f"{number}", 0.9) for number in range(pairs)]
    copies = book.add(*(seen(f"copy {number}") for number in range(pairs)))
    claim = book.claimed()
    outcomes = [classified(copy, book.row(one)["sha256"]) for copy, one in zip(copies, originals, strict=True)]
    watchers = [[seen(f"{number}", size=200) for number in range(start, pairs, 3)] for start in range(3)]
    at_once(lambda: book.finish(claim, *outcomes), *(lambda files=files: book.arrive(*files) for files in watchers))
    assert sorted(cases(book)) == [(one, f"copy {number}") for number, one in enumerate(originals)]


@pytest.mark.parametrize(("where", "index"), [("", "ix_scans_flagged"), ("WHERE verdict IS NULL", "ix_scans_unread")])
def test_flagged_cases_are_walked_by_their_index(book: Book, where: str, index: str) -> None:
    def plan(connection: Connection) -> str:
        statement = f"SELECT * FROM flagged_cases {where} LIMIT 50"
        if connection.dialect.name == "sqlite":
            return " | ".join(row.detail for row in connection.execute(text(f"EXPLAIN QUERY PLAN {statement}")))
        connection.execute(text("SET LOCAL enable_seqscan = off"))
        return " | ".join(connection.execute(text(f"EXPLAIN {statement}")).scalars())

    found = book.database.read(plan)
    assert index in found
    assert "sort" not in found.lower()
    assert "b-tree" not in found.lower()  # as SQLite says it


def test_unscored_cases_are_what_has_no_result(book: Book) -> None:
    read(book, "1", 0.9)
    out = book.reject(seen("2"))
    (failed,) = book.add(seen("3"))
    claim = book.claimed()
    book.renew(claim, exclusive=True)
    book.expire(claim, max_attempts=1)
    book.add(seen("4"))
    assert sorted(ids(book, "unscored_cases")) == [out, failed]


def test_unscored_cases_are_counted_up_to_a_limit(book: Book) -> None:
    for name in "abc":
        book.reject(seen(name))
    counts = [book.database.read(lambda c, limit=limit: unscored.count_up_to(c, limit)) for limit in (1, 2, 3, 9)]
    assert counts == [2, 3, 3, 3]


def test_a_path_has_the_state_of_its_current_scan(book: Book) -> None:
    def state(name: str) -> State | None:
        return book.database.read(lambda c: queries.current_state(c, "inbox", seen(name).path_sha256))

    assert state("a") is None
    (old,) = book.classify(seen("a"))
    assert state("a") == State.CLASSIFIED
    (new,) = book.add(seen("a", size=200))
    assert state("a") == State.QUEUED
    assert book.database.read(lambda c: queries.waiting_states(c, [old, new])) == {new: State.QUEUED}
    assert book.database.read(queries.last_finished_at) is not None


def test_unscored_cases_hold_what_waits_beyond_the_cap(book: Book) -> None:
    held, late, fresh = book.add(seen("1"), seen("2"), seen("3"))
    book.claimed(1)
    for scan_id in (held, late):
        book.set(scan_id, received_at=transitions.utc_now() - LONG_AGO)
    book.set(fresh, received_at=transitions.utc_now() - LONG_AGO + timedelta(minutes=2))
    assert sorted(ids(book, "unscored_cases")) == [held, late]


def test_a_deferred_scan_waits_since_it_was_received(book: Book) -> None:
    """One whose share is away for hours must not be hidden by each new attempt."""
    (scan_id,) = book.add(seen())
    book.set(scan_id, received_at=transitions.utc_now() - LONG_AGO)
    book.finish(book.claimed(), deferred(scan_id, seconds=3600))
    assert ids(book, "unscored_cases") == [scan_id]


def test_unscored_cases_leave_out_superseded_scans(book: Book) -> None:
    book.reject(seen("1"))
    book.classify(seen("1", size=200))
    assert ids(book, "unscored_cases") == []


def test_every_current_scan_without_a_result_is_unscored_or_recent(book: Book) -> None:
    """But for tombstones, which nobody can do anything about."""
    unread = set(Reason) - {Reason.SUPERSEDED, Reason.ERASED}
    for number, reason in enumerate(sorted({*unread, Reason.ERASED})):
        book.reject(seen(str(number)), reason)
    assert len(ids(book, "unscored_cases")) == len(unread)


def test_counts(book: Book) -> None:
    def counts() -> dict[State, int]:
        return book.database.read(queries.counts_by_state)

    assert counts() == dict.fromkeys(State, 0)
    read(book, "1", 0.9)
    one, two = book.add(seen("2"), seen("3", inbox="er"))
    book.finish(book.claimed(1), rejected(one))
    assert counts() == dict.fromkeys(State, 0) | {State.CLASSIFIED: 1, State.REJECTED: 1, State.QUEUED: 1}
    assert book.database.read(queries.count_waiting) == 1
    assert book.database.read(queries.count_finished) == 2
    assert book.database.read(queries.oldest_waiting) == book.row(two)["received_at"]
    by_source = book.database.read(queries.counts_by_source)
    assert list(by_source) == ["er", "inbox"]
    assert by_source["er"] == dict.fromkeys(State, 0) | {State.QUEUED: 1}
    assert sum(sum(states.values()) for states in by_source.values()) == 3


def test_sizes_and_limits_of_listings(book: Book) -> None:
    for number in range(5):
        read(book, str(number), 0.6 + number / 100)
    book.set(5, verdict="unsure")
    assert book.database.read(lambda c: queries.count_view_rows(c, "flagged_cases")) == 5
    assert book.database.read(lambda c: queries.count_view_rows(c, "flagged_cases", unread=True)) == 4
    unread = book.database.read(lambda c: queries.view_rows(c, "flagged_cases", 2, unread=True))
    assert [row["scan_id"] for row in unread] == [4, 3]
    with pytest.raises(ValueError, match="no such view"):
        book.database.read(lambda c: queries.count_view_rows(c, "scans; DROP TABLE scans"))
