"""The SQL views: their columns are a contract, and what they leave out needs no attention."""

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection, text
from support.ledger_driver import (
    MODEL,
    LedgerDriver,
    classified,
    deferred,
    file_version,
    rejected,
    run_concurrently,
    wait_until_another_waits,
)

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


def ids(ledger: LedgerDriver, view: str, where: str = "") -> list[int]:
    return ledger.database.read(lambda c: list(c.scalars(text(f"SELECT scan_id FROM {view} {where}"))))


def read(ledger: LedgerDriver, name: str, probability: float, flagged: bool = True, sha256: str | None = None) -> int:
    (scan_id,) = ledger.add(file_version(name))
    ledger.finish(ledger.claimed(), classified(scan_id, sha256, probability, flagged))
    return scan_id


@pytest.mark.parametrize("view", queries.VIEWS)
def test_columns(ledger: LedgerDriver, view: str) -> None:
    found = ledger.database.read(lambda c: list(c.execute(text(f"SELECT * FROM {view}")).keys()))
    assert found == COLUMNS


def test_the_ledger_has_one_row_a_scan_in_every_state(ledger: LedgerDriver) -> None:
    one = read(ledger, "1", 0.9)
    twin = read(ledger, "2", 0.9, sha256=ledger.row(one)["sha256"])
    out = ledger.reject(file_version("3"))
    (held,) = ledger.add(file_version("4"))
    ledger.claimed()
    (waits,) = ledger.add(file_version("ward/5", inbox="er"))
    listed = {row["scan_id"]: row for row in ledger.database.read(lambda c: queries.view_rows(c, "scan_ledger", 100))}
    states = {one: "classified", twin: "duplicate", out: "rejected", held: "running", waits: "queued"}
    assert {scan_id: row["state"] for scan_id, row in listed.items()} == states
    assert (listed[waits]["source"], listed[waits]["path"]) == ("er", "ward/5")
    assert (listed[out]["reason"], listed[out]["detail"], listed[out]["flagged"]) == ("unreadable", "A sentence.", None)


def test_a_duplicate_shows_its_originals_result(ledger: LedgerDriver) -> None:
    original = read(ledger, "1", 0.75)
    twin = read(ledger, "2", 0.1, flagged=False, sha256=ledger.row(original)["sha256"])
    rows = {row["scan_id"]: row for row in ledger.database.read(lambda c: queries.view_rows(c, "scan_ledger", 9))}
    result = ("probability", "flagged", "model_version", "threshold", "caution")
    assert [rows[twin][name] for name in result] == [0.75, True, MODEL, 0.5, None]
    assert (rows[twin]["state"], rows[twin]["duplicate_of"]) == ("duplicate", original)


def test_times_and_booleans_have_their_types_in_listings(ledger: LedgerDriver) -> None:
    read(ledger, "1", 0.75)
    (row,) = ledger.database.read(lambda c: queries.view_rows(c, "flagged_cases", 9))
    assert row["flagged"] is True
    assert isinstance(row["received_at"], datetime)
    assert row["received_at"].tzinfo is UTC
    assert row["reviewed_at"] is None


def test_flagged_cases_most_probable_first(ledger: LedgerDriver) -> None:
    middle, high, low = read(ledger, "1", 0.7), read(ledger, "2", 0.99), read(ledger, "3", 0.51)
    read(ledger, "4", 0.2, flagged=False)
    assert ids(ledger, "flagged_cases") == [high, middle, low]
    assert ids(ledger, "flagged_cases", "WHERE verdict IS NULL") == [high, middle, low]
    ledger.set(high, verdict="pneumonia")
    assert ids(ledger, "flagged_cases", "WHERE verdict IS NULL") == [middle, low]


def test_flagged_cases_leave_out_duplicates(ledger: LedgerDriver) -> None:
    original = read(ledger, "1", 0.9)
    read(ledger, "2", 0.9, sha256=ledger.row(original)["sha256"])
    assert ids(ledger, "flagged_cases") == [original]


def test_flagged_cases_leave_out_superseded_scans(ledger: LedgerDriver) -> None:
    read(ledger, "1", 0.9)
    (newer,) = ledger.register(file_version("1", size=200)).to_announce
    assert ids(ledger, "flagged_cases") == []
    ledger.finish(ledger.claimed(), classified(newer))
    assert ids(ledger, "flagged_cases") == [newer]


def test_flagged_cases_show_the_image_that_was_replaced_and_came_back(ledger: LedgerDriver) -> None:
    flagged = read(ledger, "1", 0.9)
    ledger.classify(file_version("1", size=200), flagged=False)
    assert ids(ledger, "flagged_cases") == []
    ledger.register(file_version("1"))
    assert ids(ledger, "flagged_cases") == [flagged]


def cases(ledger: LedgerDriver) -> list[tuple[int, str]]:
    """Return (scan, path) of each flagged case."""
    rows = ledger.database.read(lambda c: queries.view_rows(c, "flagged_cases", 100))
    assert all((row["state"], row["superseded_by"], row["duplicate_of"]) == ("classified", None, None) for row in rows)
    return [(row["scan_id"], row["path"]) for row in rows]


def test_a_case_whose_file_was_replaced_stands_where_its_copy_does(ledger: LedgerDriver) -> None:
    original = read(ledger, "1", 0.9)
    sha256 = ledger.row(original)["sha256"]
    first, second = (read(ledger, name, 0.9, sha256=sha256) for name in ("2", "3"))
    ledger.classify(file_version("1", size=200), flagged=False)
    assert cases(ledger) == [(original, "2")]
    ledger.classify(file_version("2", size=200), sha256="1" * 64, flagged=False)
    assert cases(ledger) == [(original, "3")]
    ledger.classify(file_version("3", size=200), sha256="2" * 64, flagged=False)
    assert cases(ledger) == []  # its content stands nowhere
    ledger.register(file_version("3"))
    assert cases(ledger) == [(original, "3")]
    ledger.register(file_version("2"))
    assert cases(ledger) == [(original, "2")]
    ledger.register(file_version("1"))
    assert cases(ledger) == [(original, "1")]
    assert ledger.row(original)["current_duplicate"] is None
    assert [ledger.state(id_) for id_ in (original, first, second)] == ["classified", "duplicate", "duplicate"]


def test_a_copy_of_an_image_that_was_replaced_before_is_a_case(ledger: LedgerDriver) -> None:
    original = read(ledger, "1", 0.9)
    ledger.classify(file_version("1", size=200), flagged=False)
    copy = read(ledger, "2", 0.9, sha256=ledger.row(original)["sha256"])
    assert cases(ledger) == [(original, "2")]
    assert (ledger.state(copy), ledger.row(original)["current_duplicate"]) == ("duplicate", copy)


def test_an_image_replaced_by_itself_under_a_corrected_header_stays_a_case(ledger: LedgerDriver) -> None:
    header = Header(sop_uid="1.2", pixels_sha256="d" * 64)
    (original,) = ledger.add(file_version("1"))
    ledger.finish(ledger.claimed(), replace(classified(original), header=header))
    (corrected,) = ledger.add(file_version("1", size=200))
    assert cases(ledger) == []  # until it has been read, anything may stand there
    ledger.finish(ledger.claimed(), replace(classified(corrected), header=header))
    assert (ledger.state(corrected), ledger.row(original)["superseded_by"]) == ("duplicate", corrected)
    assert cases(ledger) == [(original, "1")]


def test_a_verdict_on_a_case_stays_when_its_file_is_replaced(ledger: LedgerDriver) -> None:
    original = read(ledger, "1", 0.9)
    read(ledger, "2", 0.9, sha256=ledger.row(original)["sha256"])
    ledger.set(original, verdict="no_pneumonia")
    ledger.register(file_version("1", size=200))
    assert ids(ledger, "flagged_cases") == [original]
    assert ids(ledger, "flagged_cases", "WHERE verdict IS NULL") == []


@pytest.mark.parametrize("first", ["worker", "watcher"])
def test_a_file_replaced_while_its_copy_is_read_hides_no_case(ledger: LedgerDriver, first: str) -> None:
    """The second of them begins before the first commits."""
    original = read(ledger, "1", 0.9)
    (copy,) = ledger.add(file_version("2"))
    claim, twin = ledger.claimed(), classified(copy, ledger.row(original)["sha256"])
    works = {
        "worker": lambda c: transitions.record_outcomes(c, claim.token, [twin], "worker"),
        "watcher": lambda c: registration.register_files(c, [file_version("1", size=200)], "watcher"),
    }
    done = threading.Event()

    def slowly(connection: Connection) -> None:
        works[first](connection)
        done.set()
        wait_until_another_waits(connection)

    def meanwhile() -> None:
        assert done.wait(60)
        (second,) = works.keys() - {first}
        ledger.database.write(works[second])

    run_concurrently(lambda: ledger.database.write(slowly), meanwhile)
    assert cases(ledger) == [(original, "2")]


def test_many_files_replaced_while_their_copies_are_read_hide_no_case(ledger: LedgerDriver) -> None:
    pairs = 12
    originals = [read(ledger, f"{number}", 0.9) for number in range(pairs)]
    copies = ledger.add(*(file_version(f"copy {number}") for number in range(pairs)))
    claim = ledger.claimed()
    outcomes = [classified(copy, ledger.row(one)["sha256"]) for copy, one in zip(copies, originals, strict=True)]
    watchers = [[file_version(f"{number}", size=200) for number in range(start, pairs, 3)] for start in range(3)]
    run_concurrently(
        lambda: ledger.finish(claim, *outcomes), *(lambda files=files: ledger.register(*files) for files in watchers)
    )
    assert sorted(cases(ledger)) == [(one, f"copy {number}") for number, one in enumerate(originals)]


@pytest.mark.parametrize(("where", "index"), [("", "ix_scans_flagged"), ("WHERE verdict IS NULL", "ix_scans_unread")])
def test_flagged_cases_are_walked_by_their_index(ledger: LedgerDriver, where: str, index: str) -> None:
    def plan(connection: Connection) -> str:
        statement = f"SELECT * FROM flagged_cases {where} LIMIT 50"
        if connection.dialect.name == "sqlite":
            return " | ".join(row.detail for row in connection.execute(text(f"EXPLAIN QUERY PLAN {statement}")))
        connection.execute(text("SET LOCAL enable_seqscan = off"))
        return " | ".join(connection.execute(text(f"EXPLAIN {statement}")).scalars())

    found = ledger.database.read(plan)
    assert index in found
    assert "sort" not in found.lower()
    assert "b-tree" not in found.lower()  # as SQLite says it


def test_unscored_cases_are_what_has_no_result(ledger: LedgerDriver) -> None:
    read(ledger, "1", 0.9)
    out = ledger.reject(file_version("2"))
    (failed,) = ledger.add(file_version("3"))
    claim = ledger.claimed()
    ledger.renew(claim, exclusive=True)
    ledger.expire(claim, max_attempts=1)
    ledger.add(file_version("4"))
    assert sorted(ids(ledger, "unscored_cases")) == [out, failed]


def test_unscored_cases_are_counted_up_to_a_limit(ledger: LedgerDriver) -> None:
    for name in "abc":
        ledger.reject(file_version(name))
    counts = [ledger.database.read(lambda c, limit=limit: unscored.count_up_to(c, limit)) for limit in (1, 2, 3, 9)]
    assert counts == [2, 3, 3, 3]


def test_a_path_has_the_state_of_its_current_scan(ledger: LedgerDriver) -> None:
    def state(name: str) -> State | None:
        return ledger.database.read(lambda c: queries.current_state(c, "inbox", file_version(name).path_sha256))

    assert state("a") is None
    (old,) = ledger.classify(file_version("a"))
    assert state("a") == State.CLASSIFIED
    (new,) = ledger.add(file_version("a", size=200))
    assert state("a") == State.QUEUED
    assert ledger.database.read(lambda c: queries.waiting_states(c, [old, new])) == {new: State.QUEUED}
    assert ledger.database.read(queries.last_finished_at) is not None


def test_unscored_cases_hold_what_waits_beyond_the_cap(ledger: LedgerDriver) -> None:
    held, late, fresh = ledger.add(file_version("1"), file_version("2"), file_version("3"))
    ledger.claimed(1)
    for scan_id in (held, late):
        ledger.set(scan_id, received_at=transitions.utc_now() - LONG_AGO)
    ledger.set(fresh, received_at=transitions.utc_now() - LONG_AGO + timedelta(minutes=2))
    assert sorted(ids(ledger, "unscored_cases")) == [held, late]


def test_a_deferred_scan_waits_since_it_was_received(ledger: LedgerDriver) -> None:
    """One whose share is away for hours must not be hidden by each new attempt."""
    (scan_id,) = ledger.add(file_version())
    ledger.set(scan_id, received_at=transitions.utc_now() - LONG_AGO)
    ledger.finish(ledger.claimed(), deferred(scan_id, seconds=3600))
    assert ids(ledger, "unscored_cases") == [scan_id]


def test_unscored_cases_leave_out_superseded_scans(ledger: LedgerDriver) -> None:
    ledger.reject(file_version("1"))
    ledger.classify(file_version("1", size=200))
    assert ids(ledger, "unscored_cases") == []


def test_every_current_scan_without_a_result_is_unscored_or_recent(ledger: LedgerDriver) -> None:
    """Tombstones are excepted, as nothing can be done about them."""
    unread = set(Reason) - {Reason.SUPERSEDED, Reason.ERASED}
    for number, reason in enumerate(sorted({*unread, Reason.ERASED})):
        ledger.reject(file_version(str(number)), reason)
    assert len(ids(ledger, "unscored_cases")) == len(unread)


def test_counts(ledger: LedgerDriver) -> None:
    def counts() -> dict[State, int]:
        return ledger.database.read(queries.counts_by_state)

    assert counts() == dict.fromkeys(State, 0)
    read(ledger, "1", 0.9)
    one, two = ledger.add(file_version("2"), file_version("3", inbox="er"))
    ledger.finish(ledger.claimed(1), rejected(one))
    assert counts() == dict.fromkeys(State, 0) | {State.CLASSIFIED: 1, State.REJECTED: 1, State.QUEUED: 1}
    assert ledger.database.read(queries.count_waiting) == 1
    assert ledger.database.read(queries.count_finished) == 2
    assert ledger.database.read(queries.oldest_waiting) == ledger.row(two)["received_at"]
    by_source = ledger.database.read(queries.counts_by_source)
    assert list(by_source) == ["er", "inbox"]
    assert by_source["er"] == dict.fromkeys(State, 0) | {State.QUEUED: 1}
    assert sum(sum(states.values()) for states in by_source.values()) == 3


def test_sizes_and_limits_of_listings(ledger: LedgerDriver) -> None:
    for number in range(5):
        read(ledger, str(number), 0.6 + number / 100)
    ledger.set(5, verdict="unsure")
    assert ledger.database.read(lambda c: queries.count_view_rows(c, "flagged_cases")) == 5
    assert ledger.database.read(lambda c: queries.count_view_rows(c, "flagged_cases", unread=True)) == 4
    unread = ledger.database.read(lambda c: queries.view_rows(c, "flagged_cases", 2, unread=True))
    assert [row["scan_id"] for row in unread] == [4, 3]
    with pytest.raises(ValueError, match="no such view"):
        ledger.database.read(lambda c: queries.count_view_rows(c, "scans; DROP TABLE scans"))
