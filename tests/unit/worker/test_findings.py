"""What a fetched file means: the whole table, no clock but the one that is given."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from db.outcomes import ClaimedScan, Deferred, Rejected
from db.states import Reason
from worker.decode import Away, Decoded, Fetched, Undecoded
from worker.findings import SHARE_DELAY, judge

NOW = datetime(2026, 11, 24, 3, 0, tzinfo=UTC)
SETTLE = timedelta(seconds=5)
YOUNG, OLD = NOW - timedelta(seconds=2), NOW - timedelta(seconds=5)

SCAN = ClaimedScan(4, "inbox", b"a.jpeg", size=100, mtime_ns=7, changed_at=OLD, deaths=0)
PIXELS = np.zeros((4, 4), np.uint8)


def decoded(size: int = 100, mtime_ns: int = 7) -> Decoded:
    return Decoded(4, PIXELS, "ab" * 32, size, mtime_ns)


def undecoded(reason: str = "unreadable", size: int | None = 100, mtime_ns: int | None = 7) -> Undecoded:
    return Undecoded(4, reason, "A sentence.", "ab" * 32 if size is not None else None, size, mtime_ns)


def test_a_film_as_its_row_says_is_classified_however_young() -> None:
    assert judge(SCAN, decoded(), NOW, SETTLE) is None
    assert judge(replace(SCAN, changed_at=NOW), decoded(), NOW, SETTLE) is None


def test_a_share_that_is_away_says_nothing_about_the_film() -> None:
    found = judge(SCAN, Away(4), NOW, SETTLE)
    assert found == Deferred(4, NOW + SHARE_DELAY, "the share does not answer")


@pytest.mark.parametrize("size", [99, 101])
@pytest.mark.parametrize("mtime_ns", [6, 7, 8])
@pytest.mark.parametrize("readable", [True, False])
def test_a_changed_file_waits_under_its_new_identity(size: int, mtime_ns: int, readable: bool) -> None:
    fetched: Fetched = decoded(size, mtime_ns) if readable else undecoded("unreadable", size, mtime_ns)
    found = judge(SCAN, fetched, NOW, SETTLE)
    assert found == Deferred(4, NOW + SETTLE, "the file has changed", size, mtime_ns)


def test_a_new_mtime_alone_is_a_change() -> None:
    found = judge(SCAN, decoded(mtime_ns=8), NOW, SETTLE)
    assert isinstance(found, Deferred)
    assert (found.size, found.mtime_ns) == (100, 8)


@pytest.mark.parametrize("reason", ["empty", "unsupported", "unreadable", "too_large", "no_pixels"])
def test_an_unreadable_file_that_was_just_written_may_be_half_of_one(reason: str) -> None:
    found = judge(replace(SCAN, changed_at=YOUNG), undecoded(reason), NOW, SETTLE)
    assert found == Deferred(4, YOUNG + SETTLE, "not readable yet")


@pytest.mark.parametrize("reason", ["empty", "unsupported", "unreadable", "too_large", "no_pixels"])
def test_an_unreadable_file_that_has_settled_is_rejected(reason: str) -> None:
    found = judge(SCAN, undecoded(reason), NOW, SETTLE)
    assert found == Rejected(4, Reason(reason), "A sentence.", "ab" * 32)


@pytest.mark.parametrize("reason", ["vanished", "no_permission", "not_a_file", "too_large", "too_slow", "unreadable"])
@pytest.mark.parametrize("changed_at", [YOUNG, OLD])
def test_what_could_not_be_opened_or_cost_its_decoder_is_rejected_at_once(reason: str, changed_at: datetime) -> None:
    found = judge(replace(SCAN, changed_at=changed_at), undecoded(reason, None, None), NOW, SETTLE)
    assert found == Rejected(4, Reason(reason), "A sentence.", None)


def test_a_row_from_a_clock_that_runs_ahead_does_not_wait_for_it() -> None:
    tomorrow = replace(SCAN, changed_at=NOW + timedelta(days=1))
    found = judge(tomorrow, undecoded(), NOW, SETTLE)
    assert isinstance(found, Deferred)
    assert found.not_before == NOW + SETTLE


def test_without_settling_nothing_waits() -> None:
    found = judge(replace(SCAN, changed_at=NOW), undecoded(), NOW, timedelta(0))
    assert isinstance(found, Rejected)
