"""Decisions about a fetched file: the whole table, with no clock but the given one."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from db.ledger.outcomes import ClaimedScan, Deferred, Rejected
from db.states import Reason
from pneumowatch.header import Header
from worker.decision import NO_AGE_RULE, AgeRule, apply_input_gate, decide
from worker.decode import DecodedFile, DecodeFailure, DecodeResult, FileUnavailable

NOW = datetime(2026, 11, 24, 3, 0, tzinfo=UTC)
SETTLE = timedelta(seconds=5)
YOUNG, OLD = NOW - timedelta(seconds=2), NOW - timedelta(seconds=5)

SCAN = ClaimedScan(4, "inbox", b"a.jpeg", size=100, mtime_ns=7, changed_at=OLD, lost_leases=0)
PIXELS = np.zeros((4, 4), np.uint8)


def decoded(size: int = 100, mtime_ns: int = 7) -> DecodedFile:
    return DecodedFile(4, PIXELS, "ab" * 32, size, mtime_ns)


def failure(reason: str = "unreadable", size: int | None = 100, mtime_ns: int | None = 7) -> DecodeFailure:
    return DecodeFailure(4, reason, "A sentence.", "ab" * 32 if size is not None else None, size, mtime_ns)


def test_an_image_as_its_row_says_is_classified_however_young() -> None:
    assert decide(SCAN, decoded(), NOW, SETTLE) is None
    assert decide(replace(SCAN, changed_at=NOW), decoded(), NOW, SETTLE) is None


def test_a_share_that_is_away_says_nothing_about_the_image() -> None:
    found = decide(SCAN, FileUnavailable(4, 20.0), NOW, SETTLE)
    assert found == Deferred(4, NOW + timedelta(seconds=20), "the share is away")


@pytest.mark.parametrize("gate_score", [-3.0, 0.0, 1.0])
def test_what_looks_like_a_chest_image_is_admitted(gate_score: float) -> None:
    image = decoded()
    assert apply_input_gate(image, gate_score) is image


def test_what_does_not_is_rejected_with_what_to_do() -> None:
    header = Header(study_uid="1.2.3")
    found = apply_input_gate(replace(decoded(), header=header), 1.001)
    assert isinstance(found, DecodeFailure)
    assert (found.reason, found.sha256, found.header) == ("not_chest_xray", "ab" * 32, header)
    assert "Send the original image" in found.sentence


@pytest.mark.parametrize("size", [99, 101])
@pytest.mark.parametrize("mtime_ns", [6, 7, 8])
@pytest.mark.parametrize("readable", [True, False])
def test_a_changed_file_waits_under_its_new_identity(size: int, mtime_ns: int, readable: bool) -> None:
    fetched: DecodeResult = decoded(size, mtime_ns) if readable else failure("unreadable", size, mtime_ns)
    found = decide(SCAN, fetched, NOW, SETTLE)
    assert found == Deferred(4, NOW + SETTLE, "the file has changed", size, mtime_ns)


def test_a_new_mtime_alone_is_a_change() -> None:
    found = decide(SCAN, decoded(mtime_ns=8), NOW, SETTLE)
    assert isinstance(found, Deferred)
    assert (found.size, found.mtime_ns) == (100, 8)


@pytest.mark.parametrize("reason", ["empty", "unsupported", "unreadable", "too_large", "no_pixels"])
def test_an_unreadable_file_that_was_just_written_may_be_half_of_one(reason: str) -> None:
    found = decide(replace(SCAN, changed_at=YOUNG), failure(reason), NOW, SETTLE)
    assert found == Deferred(4, YOUNG + SETTLE, "not readable yet")


@pytest.mark.parametrize("reason", ["empty", "unsupported", "unreadable", "too_large", "no_pixels"])
def test_an_unreadable_file_that_has_settled_is_rejected(reason: str) -> None:
    found = decide(SCAN, failure(reason), NOW, SETTLE)
    assert found == Rejected(4, Reason(reason), "A sentence.", "ab" * 32)


@pytest.mark.parametrize("reason", ["vanished", "no_permission", "not_a_file", "too_large", "too_slow", "unreadable"])
@pytest.mark.parametrize("changed_at", [YOUNG, OLD])
def test_what_could_not_be_opened_or_cost_its_decoder_is_rejected_at_once(reason: str, changed_at: datetime) -> None:
    found = decide(replace(SCAN, changed_at=changed_at), failure(reason, None, None), NOW, SETTLE)
    assert found == Rejected(4, Reason(reason), "A sentence.", None)


def test_a_row_from_a_clock_that_runs_ahead_does_not_wait_for_it() -> None:
    tomorrow = replace(SCAN, changed_at=NOW + timedelta(days=1))
    found = decide(tomorrow, failure(), NOW, SETTLE)
    # its row takes the time of this clock, by which the file has settled when it is looked at again
    assert found == Deferred(4, NOW + SETTLE, "not readable yet", 100, 7)
    later = replace(tomorrow, changed_at=NOW)
    assert isinstance(decide(later, failure(), NOW + SETTLE, SETTLE), Rejected)


def test_without_settling_nothing_waits() -> None:
    found = decide(replace(SCAN, changed_at=NOW), failure(), NOW, timedelta(0))
    assert isinstance(found, Rejected)


def test_a_rejected_image_keeps_its_header() -> None:
    header = Header(study_uid="1.2", modality="CT")
    found = decide(SCAN, replace(failure("not_chest_xray"), header=header), NOW, SETTLE)
    assert found == Rejected(4, Reason.NOT_CHEST_XRAY, "A sentence.", "ab" * 32, header)


CHILDREN = AgeRule((1, 5))
REJECTING = replace(CHILDREN, reject=True)
INSIDE = [None, 1.0, 3.5, 5.0, 5.9, 5.999]  # five years and eleven months is five
OUTSIDE = [0.0, 0.5, 0.999, 6.0, 6.1, 42.0, 130.0]


def aged(years: float | None) -> DecodedFile:
    return replace(decoded(), header=Header(sop_uid="1.2", age_years=years))


@pytest.mark.parametrize("years", INSIDE)
def test_images_of_ages_that_the_model_knows(years: float | None) -> None:
    image = aged(years)
    assert CHILDREN.caution(image.header) is None
    assert REJECTING.apply(image) is image


@pytest.mark.parametrize("years", OUTSIDE)
def test_images_of_other_ages_are_scored_with_a_caution(years: float) -> None:
    image = aged(years)
    assert CHILDREN.caution(image.header) == "age"
    assert CHILDREN.apply(image) is image


@pytest.mark.parametrize("years", OUTSIDE)
def test_images_of_other_ages_are_rejected_where_that_is_set(years: float) -> None:
    image = aged(years)
    refused = REJECTING.apply(image)
    assert isinstance(refused, DecodeFailure)
    found = decide(SCAN, refused, NOW, SETTLE)
    assert isinstance(found, Rejected)
    assert (found.reason, found.sha256, found.header) == (Reason.OUTSIDE_AGE, image.sha256, image.header)
    assert "1 to 5 years" in found.sentence
    assert f"{years:g} " not in found.sentence.replace("1 to 5", "")


@pytest.mark.parametrize("rule", [NO_AGE_RULE, AgeRule(None, reject=True)])
def test_a_model_that_does_not_say_its_ages_knows_all(rule: AgeRule) -> None:
    image = aged(90)
    assert rule.caution(image.header) is None
    assert rule.apply(image) is image


@pytest.mark.parametrize("fetched", [decoded(), failure(), FileUnavailable(4)], ids=lambda one: type(one).__name__)
def test_what_has_no_age_is_left_as_it_is(fetched: DecodeResult) -> None:
    assert REJECTING.apply(fetched) is fetched
