"""How pages format times and numbers."""

from datetime import UTC, datetime, timedelta

import pytest

from review.templating import age, iso, number, percent

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "now"), (59, "now"), (60, "1 min"), (7199, "1 h"), (86_399, "23 h"), (2 * 86_400, "2 d")]
)
def test_ages(seconds: int, said: str) -> None:
    assert age(NOW - timedelta(seconds=seconds), NOW) == said


def test_what_is_not_known_is_left_out() -> None:
    assert [age(None), percent(None), iso(None), number(None)] == [""] * 4


def test_figures() -> None:
    assert percent(0.0512, 1) == "5.1 %"
    assert number(1_234_567) == "1,234,567"
    assert iso(NOW) == "2026-03-01T12:00:00Z"
