"""When a training is due: once a night by the local clock, made up where the machine was off, killed ones again."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from datetime import time as clock

import pytest

from db.registry.training_runs import TrainingState
from trainer.nightly.timetable import MAX_ATTEMPTS, is_run_due, latest_occurrence

MOMENT = datetime(2026, 11, 24, 2, tzinfo=UTC)
BEFORE = datetime(2026, 11, 20, tzinfo=UTC)


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def at(month: int, day: int, hour: int, minute: int = 0) -> datetime:
    """Return the time in UTC."""
    return datetime(2026, month, day, hour, minute, tzinfo=UTC)


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("now", "moment"),
    [
        (at(11, 24, 1, 0), at(11, 24, 1)),  # two o'clock it is
        (at(11, 24, 0, 59), at(11, 23, 1)),
        (at(11, 24, 22, 59), at(11, 24, 1)),
        (at(7, 1, 0, 0), at(7, 1, 0)),  # summer time
        (at(3, 29, 12, 0), at(3, 29, 0)),  # the night without two o'clock: an hour earlier
        (at(10, 25, 0, 30), at(10, 25, 0)),  # the night with two of them: the first
        (at(10, 25, 12, 0), at(10, 25, 0)),
    ],
)
def test_the_moment_is_one_of_the_local_clock(now: datetime, moment: datetime) -> None:
    assert latest_occurrence(now, clock(2)).astimezone(UTC) == moment


def test_once_a_night_whatever_its_outcome() -> None:
    assert is_run_due(MOMENT, BEFORE, [])
    for state in (TrainingState.RUNNING, TrainingState.FINISHED, TrainingState.FAILED):
        assert not is_run_due(MOMENT, BEFORE, [state])


def test_a_killed_one_is_made_up_but_not_for_ever() -> None:
    assert is_run_due(MOMENT, BEFORE, [TrainingState.KILLED] * (MAX_ATTEMPTS - 1))
    assert not is_run_due(MOMENT, BEFORE, [TrainingState.KILLED] * MAX_ATTEMPTS)
    assert not is_run_due(MOMENT, BEFORE, [TrainingState.KILLED, TrainingState.FINISHED])


def test_where_there_was_nothing_to_learn_nothing_is_made_up() -> None:
    assert not is_run_due(MOMENT, None, [])
    assert not is_run_due(MOMENT, MOMENT, [])
