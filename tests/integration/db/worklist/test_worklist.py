"""The worklist's order, its pages, and what it hides."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, text
from support.classified_scans import add_classified
from support.ledger_driver import BY, MODEL, LedgerDriver, file_version, model_folder
from support.query_plans import explain

from db.ledger import transitions
from db.ledger.outcomes import Classified
from db.registry import model_registry, rescoring
from db.states import State, Verdict
from db.worklist import changes, search, statistics, verdicts, worklist
from db.worklist.worklist import BadCursor, Count, Cursor, Filters, Listing

CAP = timedelta(hours=4)
ALL = Filters(listing=Listing.ALL)
TO_READ = Filters()
FLAGGED = Filters(listing=Listing.FLAGGED)
READER = "rita"


def pages(
    ledger: LedgerDriver, filters: Filters = TO_READ, limit: int = 2, cap: timedelta = CAP
) -> Iterator[list[int]]:
    after: Cursor | None = None
    while True:
        found = ledger.database.read(lambda c, at=after: worklist.fetch_page(c, filters, cap, READER, at, limit))
        yield [row["scan_id"] for row in found.rows]
        if found.next_cursor is None:
            return
        after = Cursor.parse(str(found.next_cursor))


def listed(ledger: LedgerDriver, filters: Filters = TO_READ, limit: int = 2, cap: timedelta = CAP) -> list[int]:
    return [scan_id for page in pages(ledger, filters, limit, cap) for scan_id in page]


def row(ledger: LedgerDriver, scan_id: int, reader: str | None = READER) -> dict[str, Any]:
    (found,) = ledger.database.read(lambda c: worklist.rows_by_id(c, [scan_id], reader))
    return found


def test_the_most_probable_first_and_what_is_reviewed_or_not_flagged_not_at_all(ledger: LedgerDriver) -> None:
    low, high, middle = (add_classified(ledger, name, p) for name, p in (("1", 0.6), ("2", 0.99), ("3", 0.8)))
    add_classified(ledger, "4", 0.1)
    reviewed = add_classified(ledger, "5", 0.95)
    ledger.database.write(lambda c: verdicts.record_verdict(c, reviewed, Verdict.UNSURE, "ada"))
    ledger.reject(file_version("6"))
    ledger.add(file_version("7"))
    assert listed(ledger) == [high, middle, low]
    assert [len(page) for page in pages(ledger)] == [2, 1]


def test_what_waits_beyond_the_cap_comes_first_the_oldest_of_it_leading(ledger: LedgerDriver) -> None:
    fresh, newest = add_classified(ledger, "1", 0.9, hours_ago=3), add_classified(ledger, "2", 0.95)
    late, latest = add_classified(ledger, "3", 0.6, hours_ago=5), add_classified(ledger, "4", 0.51, hours_ago=50)
    assert listed(ledger, limit=1) == listed(ledger, limit=3) == [latest, late, newest, fresh]
    assert listed(ledger, cap=timedelta(0)) == [newest, fresh, late, latest]
    shown = ledger.database.read(lambda c: worklist.fetch_page(c, TO_READ, CAP, READER)).rows
    assert [one["late"] for one in shown] == [True, True, False, False]
    assert ledger.database.read(lambda c: worklist.count_late(c, CAP)) == 2
    assert ledger.database.read(lambda c: worklist.count_late(c, timedelta(0))) == 0


def test_a_walk_keeps_the_cap_of_its_first_page(ledger: LedgerDriver) -> None:
    """Otherwise an image that becomes late while a reader pages on would be shown twice, or never."""
    one, other = add_classified(ledger, "1", 0.9), add_classified(ledger, "2", 0.8)
    first = ledger.database.read(lambda c: worklist.fetch_page(c, TO_READ, CAP, READER, limit=1))
    ledger.set(other, received_at=datetime.now(UTC) - timedelta(hours=5))
    assert first.next_cursor is not None
    ledger.set(other, received_at=first.next_cursor.cutoff + timedelta(seconds=1))
    second = ledger.database.read(lambda c: worklist.fetch_page(c, TO_READ, timedelta(0), READER, first.next_cursor, 1))
    assert [r["scan_id"] for r in first.rows + second.rows] == [one, other]


def test_images_of_one_rank_are_each_listed_once(ledger: LedgerDriver) -> None:
    ids = [add_classified(ledger, str(number), 0.75) for number in range(7)]
    assert listed(ledger) == ids[::-1]
    for scan_id in ids:
        ledger.set(scan_id, received_at=datetime(2020, 1, 1, tzinfo=UTC))
    assert listed(ledger) == ids
    assert listed(ledger, ALL) == ids[::-1]


def test_a_study_is_one_line_with_its_first_image(ledger: LedgerDriver) -> None:
    add_classified(ledger, "1", 0.7, study="1.2")
    top = add_classified(ledger, "2", 0.9, study="1.2")
    add_classified(ledger, "3", 0.1, study="1.2")
    single = add_classified(ledger, "4", 0.8)
    assert listed(ledger) == [top, single]
    assert [row(ledger, scan_id)["images"] for scan_id in (top, single)] == [3, 1]
    ledger.database.write(lambda c: verdicts.record_verdict(c, top, Verdict.PNEUMONIA, "ada"))
    assert listed(ledger) == [single, top - 1]  # its other image still waits


def test_a_study_stands_where_its_late_image_does(ledger: LedgerDriver) -> None:
    late = add_classified(ledger, "1", 0.6, study="1.2", hours_ago=9)
    add_classified(ledger, "2", 0.99, study="1.2")
    other = add_classified(ledger, "3", 0.7)
    assert listed(ledger) == [late, other]
    assert listed(ledger, cap=timedelta(0)) == [late + 1, other]


def test_a_study_is_led_by_an_image_that_is_in_the_list(ledger: LedgerDriver) -> None:
    ward = add_classified(ledger, "1", 0.6, study="1.2", inbox="ward")
    clinic = add_classified(ledger, "2", 0.9, study="1.2", inbox="clinic")
    assert listed(ledger, Filters(source="ward")) == [ward]
    assert listed(ledger, Filters(source="clinic")) == listed(ledger) == [clinic]


def test_filters(ledger: LedgerDriver) -> None:
    high = add_classified(ledger, "1", 0.9, inbox="ward", age_years=30.0)
    low = add_classified(ledger, "2", 0.2, hours_ago=100)
    out = ledger.reject(file_version("3"))
    ledger.set(high, caution="age")
    ledger.database.write(lambda c: verdicts.record_verdict(c, low, Verdict.NO_PNEUMONIA, "ada"))
    yesterday = datetime.now(UTC) - timedelta(days=1)
    expected = {
        ALL: [out, high, low],
        replace(ALL, source="ward"): [high],
        replace(ALL, state=State.REJECTED): [out],
        replace(ALL, verdict=Verdict.NO_PNEUMONIA): [low],
        replace(ALL, verdict="none"): [out, high],
        replace(ALL, caution="age"): [high],
        replace(ALL, caution="any"): [high],
        replace(ALL, caution="none"): [out, low],
        replace(ALL, since=yesterday): [out, high],
        replace(ALL, until=yesterday): [low],
        replace(ALL, at_least=0.5): [high],
        replace(ALL, at_most=0.5): [low],
        replace(ALL, listing=Listing.FLAGGED): [high],
        replace(ALL, source="elsewhere"): [],
        Filters(caution="age", at_least=0.9, source="ward"): [high],
        Filters(until=yesterday): [],
    }
    assert {filters: listed(ledger, filters) for filters in expected} == expected
    counts = {
        filters: ledger.database.read(lambda c, f=filters: worklist.count_scans(c, f, READER)) for filters in expected
    }
    assert counts == {filters: Count(len(ids), False) for filters, ids in expected.items()}
    assert not TO_READ.narrowed
    assert not ALL.narrowed
    assert Filters(source="ward").narrowed


def test_counting_ends(ledger: LedgerDriver) -> None:
    for number in range(4):
        add_classified(ledger, str(number), 0.9)
    assert ledger.database.read(lambda c: worklist.count_scans(c, TO_READ, READER, at_most=3)) == Count(3, True)
    assert str(Count(3, True)) == "more than 3"
    assert ledger.database.read(lambda c: worklist.count_scans(c, TO_READ, READER, at_most=4)) == Count(4, False)


@pytest.mark.parametrize("share", [0.0, 0.05, 1.0])
def test_a_sample_of_the_unflagged_images_waits_among_the_flagged(ledger: LedgerDriver, share: float) -> None:
    ids = [add_classified(ledger, str(number), 0.1, share=share) for number in range(40)]
    sampled = listed(ledger, limit=100)
    assert set(sampled) <= set(ids)
    assert len(sampled) == {0.0: 0, 0.05: len(sampled), 1.0: 40}[share]
    assert len(sampled) < 15 or share == 1.0
    for scan_id in sampled:
        stored = ledger.row(scan_id)
        assert 0.5 < stored["worklist_rank"] <= 1.0
        assert (stored["sampled_share"], stored["hidden_until_verdict"], stored["probability"]) == (share, True, 0.1)


def test_what_is_read_blind_shows_no_result_before_its_verdict_whatever_it_is(ledger: LedgerDriver) -> None:
    flagged, sampled = (add_classified(ledger, name, p, share=1.0) for name, p in (("1", 0.9), ("2", 0.1)))
    shown = [row(ledger, scan_id) for scan_id in (flagged, sampled)]
    told_apart = {"scan_id", "path", "sha256", "received_at", "finished_at"}  # of any two images
    assert {key: value for key, value in shown[0].items() if key not in told_apart} == {
        key: value for key, value in shown[1].items() if key not in told_apart
    }
    assert all((one["probability"], one["flagged"], one["hidden"]) == (None, None, True) for one in shown)
    assert [row(ledger, scan_id, None)["flagged"] for scan_id in (flagged, sampled)] == [True, False]
    assert sorted(listed(ledger)) == [flagged, sampled]
    by_result = [Filters(at_least=0.0), replace(ALL, at_most=1.0), replace(FLAGGED, at_most=1.0)]
    assert [listed(ledger, filters) for filters in by_result] == [[], [], []]
    assert sorted(listed(ledger, FLAGGED)) == [flagged, sampled]
    ledger.database.write(lambda c: verdicts.record_verdict(c, sampled, Verdict.PNEUMONIA, "ada"))
    assert row(ledger, sampled)["hidden"]  # what another reader said makes nobody less blind
    review = ledger.database.write(lambda c: verdicts.record_verdict(c, sampled, Verdict.NO_PNEUMONIA, READER))
    reviewed = row(ledger, sampled)
    assert (reviewed["probability"], reviewed["flagged"], reviewed["hidden"]) == (0.1, False, False)
    assert listed(ledger, replace(ALL, at_most=1.0)) == [sampled]
    assert listed(ledger, FLAGGED) == [flagged]
    ledger.database.write(lambda c: verdicts.retract_verdict(c, review, READER))
    assert not row(ledger, sampled)["hidden"]  # it has been seen


def test_a_copy_of_a_blind_image_hides_its_result_too(ledger: LedgerDriver) -> None:
    original = add_classified(ledger, "1", 0.1, share=1.0)
    (twin,) = ledger.add(file_version("2"))
    ledger.finish(ledger.claimed(), Classified(twin, f"{original:064x}", 0.1, False, 0.5, MODEL))
    assert (row(ledger, twin)["state"], row(ledger, twin)["probability"], row(ledger, twin)["hidden"]) == (
        "duplicate",
        None,
        True,
    )
    ledger.database.write(lambda c: verdicts.record_verdict(c, twin, Verdict.UNSURE, READER))
    assert row(ledger, twin)["probability"] == row(ledger, original)["probability"] == 0.1


def test_the_share_of_flagged_images_that_are_read_blind(ledger: LedgerDriver) -> None:
    ids = [add_classified(ledger, str(number), 0.9, share=0.05) for number in range(60)]
    blind = [scan_id for scan_id in ids if row(ledger, scan_id)["hidden"]]
    assert 0 < len(blind) < 40
    assert sorted(listed(ledger)) == ids


def test_an_image_read_again_moves_to_where_its_new_result_belongs(ledger: LedgerDriver) -> None:
    scan_id, other = add_classified(ledger, "1", 0.9), add_classified(ledger, "2", 0.1)
    ledger.database.write(lambda c: model_registry.register_model(c, model_folder("model-2", "1" * 64), b"", BY))
    outcomes = [
        Classified(scan_id, ledger.row(scan_id)["sha256"], 0.2, False, 0.4, "model-2"),
        Classified(other, ledger.row(other)["sha256"], 0.7, True, 0.4, "model-2"),
    ]
    ledger.database.write(lambda c: rescoring.add_predictions(c, outcomes))
    ledger.database.write(lambda c: rescoring.make_current(c, "model-2", 9, BY, lambda _: None, 0.0))
    assert listed(ledger) == [other]
    assert (ledger.row(scan_id)["worklist_rank"], ledger.row(other)["worklist_rank"]) == (None, 0.7)
    assert ledger.database.read(lambda c: worklist.next_scan(c, TO_READ, CAP)) == other


def test_the_next_case_is_not_one_that_was_passed(ledger: LedgerDriver) -> None:
    low, high = add_classified(ledger, "1", 0.7), add_classified(ledger, "2", 0.9)
    assert ledger.database.read(lambda c: worklist.next_scan(c, TO_READ, CAP)) == high
    assert ledger.database.read(lambda c: worklist.next_scan(c, TO_READ, CAP, [high])) == low
    assert ledger.database.read(lambda c: worklist.next_scan(c, TO_READ, CAP, [high, low])) is None


@pytest.mark.parametrize("written", ["", "r", "r1", "x1-1", "r1-1 OR 1=1", "n-1-1", "r9999-0", "r" + "9" * 19 + "-1"])
def test_a_cursor_that_is_none_is_refused(ledger: LedgerDriver, written: str) -> None:
    add_classified(ledger, "1", 0.9)
    with pytest.raises(BadCursor):
        ledger.database.read(lambda c: worklist.fetch_page(c, TO_READ, CAP, READER, Cursor.parse(written)))


def test_a_cursor_of_another_list_is_refused(ledger: LedgerDriver) -> None:
    scan_id = add_classified(ledger, "1", 0.1)
    at = datetime.now(UTC)
    for filters, part in ((TO_READ, "n"), (TO_READ, "f"), (TO_READ, "r"), (FLAGGED, "f"), (ALL, "r"), (ALL, "l")):
        cursor = Cursor(worklist.Section(part), scan_id, at)
        with pytest.raises(BadCursor):
            ledger.database.read(lambda c, f=filters, a=cursor: worklist.fetch_page(c, f, CAP, READER, a))


def test_search(ledger: LedgerDriver) -> None:
    one = add_classified(ledger, "ward/DOE_JOHN 100%.png", 0.9, accession_number="A-17")
    two = add_classified(ledger, "ward/roe.png", 0.1)

    def found(text: str) -> list[int]:
        return ledger.database.read(lambda c: search.search_scans(c, text)).scan_ids

    assert found("A-17") == [one]
    assert found(" doe_john ") == [one]
    assert found("ward/") == [two, one]
    assert found("100%") == [one]
    assert found("%") == found("___") == found("") == found("no such image") == []


def test_a_search_goes_back_window_by_window(ledger: LedgerDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [add_classified(ledger, f"image {number}.png", 0.9) for number in range(7)]
    monkeypatch.setattr(search, "SEARCH_WINDOW", 3)
    found, before, steps = [], None, 0
    while steps == 0 or before:
        answer = ledger.database.read(lambda c, b=before: search.search_scans(c, "image", b))
        found, before, steps = found + answer.scan_ids, answer.searched_down_to, steps + 1
    assert found == ids[::-1]
    assert steps == 3


def test_news(ledger: LedgerDriver) -> None:
    first = add_classified(ledger, "1", 0.9)
    moment = ledger.database.read(changes.current_marker)
    assert changes.ChangeMarker.parse(str(moment)) == moment
    assert ledger.database.read(lambda c: changes.changes_since(c, moment)) == changes.Changes(0, 0)
    add_classified(ledger, "2", 0.8)
    add_classified(ledger, "3", 0.2)
    ledger.reject(file_version("4"))
    ledger.database.write(lambda c: verdicts.record_verdict(c, first, Verdict.PNEUMONIA, "ada"))
    assert ledger.database.read(changes.current_marker) != moment
    assert ledger.database.read(lambda c: changes.changes_since(c, moment)) == changes.Changes(1, 1)
    assert [changes.ChangeMarker.parse(bad) for bad in ("", "1", "a-b", "1-", "9" * 50 + "-1", "²-1")] == [None] * 6


def fill(connection: Connection) -> None:
    """Insert so many rows that PostgreSQL chooses an index by itself."""
    connection.execute(
        text(
            """
            INSERT INTO scans (inbox, path_sha256, path_bytes, path, size, mtime_ns, state, priority, received_at,
                changed_at, not_before, lost_leases, lost_leases_exclusive, exclusive,
                probability, flagged, worklist_rank, study_uid, accession_number, verdict)
            SELECT CASE WHEN i % 500 = 0 THEN 'rare' ELSE 'ward' END, sha256(int8send(i)), '', 'image ' || i, 1, i,
                CASE WHEN i % 400 = 0 THEN 'rejected' ELSE 'classified' END, 5, at, at, at, 0, 0, false,
                p, p >= 0.5, CASE WHEN p >= 0.5 AND i % 400 <> 0 THEN p END,
                CASE WHEN i % 3 = 0 THEN '1.2.' || i / 6 END, 'A' || i, CASE WHEN i < 10000 THEN 'unsure' END
            FROM (SELECT i, (i * 7919 % 20000) / 20000.0 AS p, now() - (20000 - i) * interval '1 minute' AS at
                FROM generate_series(1, 20000) AS i) AS numbers
            """
        )
    )


def test_lists_are_walked_by_their_indexes_in_postgresql(postgres_ledger: LedgerDriver) -> None:

    database = postgres_ledger.database
    database.write(fill)
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE scans"))
    late, ranked, newest = (
        Cursor(worklist.Section(part), 15_000 if part == "n" else _unread(database), transitions.utc_now() - CAP)
        for part in "lrn"
    )
    lists = [
        (TO_READ, None, "ix_scans_unread_since"),
        (TO_READ, late, "ix_scans_unread_since"),
        (TO_READ, ranked, "ix_scans_"),
        (Filters(source="rare"), None, "ix_scans_"),
        (FLAGGED, None, "ix_scans_in_worklist"),
        (ALL, None, "ix_scans_arrived"),
        (ALL, newest, "ix_scans_arrived"),
        (replace(ALL, source="rare"), None, "ix_scans_arrived_from"),
        (replace(ALL, state=State.REJECTED), None, "ix_scans_without_result"),
        (replace(ALL, verdict=Verdict.UNSURE), None, "ix_scans_reviewed"),
        (replace(ALL, since=transitions.utc_now() - CAP), None, "ix_scans_arrived"),
    ]
    for filters, after, index in lists:
        plans = explain(database, lambda c, f=filters, a=after: worklist.fetch_page(c, f, CAP, READER, a))
        assert index in "\n".join(plans), (filters, plans)
        assert not [plan for plan in plans if "Seq Scan on scans" in plan]
    others = {
        "accession": lambda c: search.search_scans(c, "A15000"),
        "by_day": lambda c: statistics.counts_by_day(c, 2),
        "agreement": lambda c: statistics.agreement(c, 2),
        "by_hour": lambda c: statistics.finished_by_hour(c),
        "news": lambda c: changes.changes_since(c, changes.current_marker(c)),
        "count": lambda c: worklist.count_scans(c, TO_READ, READER),
        "late": lambda c: worklist.count_late(c, CAP),
    }
    for name, work in others.items():
        assert not [plan for plan in explain(database, work) if "Seq Scan on scans" in plan], name


def _unread(database: Any) -> int:
    return int(
        database.read(
            lambda c: c.scalar(
                text("SELECT max(id) FROM scans WHERE worklist_rank IS NOT NULL AND verdict IS NULL AND id < 15000")
            )
        )
    )


def test_what_was_uploaded_is_not_sampled(ledger: LedgerDriver) -> None:
    flagged, other = (
        add_classified(ledger, name, p, share=1.0, inbox="uploads") for name, p in (("1", 0.9), ("2", 0.1))
    )
    assert listed(ledger) == [flagged]
    assert (row(ledger, flagged)["hidden"], row(ledger, flagged)["probability"]) == (False, 0.9)
    stored = ledger.row(other)
    assert (stored["worklist_rank"], stored["sampled_share"], stored["hidden_until_verdict"]) == (None, None, False)
