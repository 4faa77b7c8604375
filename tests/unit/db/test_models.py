"""Times are aware and in UTC in Python, on every database."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy.dialects import postgresql, sqlite

from db.models import UtcDateTime

NOON = datetime(2024, 6, 1, 12, 0, tzinfo=UTC)
DIALECTS = [sqlite.dialect(), postgresql.dialect()]


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_a_time_of_another_zone_comes_back_in_utc(dialect: object) -> None:
    kind = UtcDateTime()
    bound = kind.process_bind_param(NOON.astimezone(timezone(timedelta(hours=-5))), dialect)
    back = kind.process_result_value(bound, dialect)
    assert back == NOON
    assert back.utcoffset() == timedelta(0)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_a_time_without_a_zone_is_refused(dialect: object) -> None:
    with pytest.raises(ValueError, match="zone"):
        UtcDateTime().process_bind_param(NOON.replace(tzinfo=None), dialect)


def test_none_stays_none() -> None:
    assert UtcDateTime().process_bind_param(None, DIALECTS[0]) is None
    assert UtcDateTime().process_result_value(None, DIALECTS[0]) is None
