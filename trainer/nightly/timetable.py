"""When the next training is due, by the attempts that there were: nothing is kept in memory, nothing is missed."""

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, time, timedelta
from typing import Final

from sqlalchemy import Connection

from db.registry import training_runs
from db.registry.training_runs import LEASE_FACTOR, StaleRunReaper, TrainingState
from db.session import Database
from pneumowatch.component import Component
from pneumowatch.errors import BrokerUnavailable
from pneumowatch.logs import get_logger
from pneumowatch.settings import Settings

log = get_logger("training")

NEVER: Final = "never"
POLL_SECONDS: Final = 20.0
STUCK_SECONDS: Final = 120.0  # without a look, it hangs
RETRY_SECONDS: Final = 600.0  # after one that could not even begin
MAX_ATTEMPTS: Final = 3  # that may be killed in one night; what kills more of them kills the next one too


def latest_occurrence(now: datetime, at: time) -> datetime:
    """The last time that a local clock showed `at`: the first of two where it shows it twice, an hour earlier where it
    leaves it out (Pythons differ there: the earlier of both readings is the same on all)."""
    for days in (0, 1):
        shown = datetime.combine(now.astimezone().date() - timedelta(days=days), at)
        moment = min(shown.replace(fold=fold).astimezone(UTC) for fold in (0, 1))
        if moment <= now:
            return moment
    raise AssertionError("yesterday's moment is past")


def is_run_due(moment: datetime, known_since: datetime | None, begun: Sequence[TrainingState]) -> bool:
    """Whether the training of that moment is still to be done: a night with the machine off is made up.

    Args:
        moment: when it was to begin.
        known_since: when there was first something to learn; what had not begun then is not made up.
        begun: states of the attempts since the moment. Whatever decision one came to is the night's; one that was
            killed is made up, but not for ever.
    """
    if known_since is None or known_since >= moment:
        return False
    return all(state == TrainingState.KILLED for state in begun) and len(begun) < MAX_ATTEMPTS


def is_retraining_due(connection: Connection, retrain_at: str, now: datetime) -> bool:
    if retrain_at == NEVER:
        return False
    moment = latest_occurrence(now, time.fromisoformat(retrain_at))
    return is_run_due(
        moment, training_runs.first_review_at(connection), training_runs.run_states_since(connection, moment)
    )


def follow_timetable(
    settings: Settings,
    database: Database,
    start_training: Callable[[], bool],
    stop: threading.Event,
    component: Component,
) -> None:
    """Until `stop`: call `start_training` whenever a training is due, and see that dead ones are told from those that live.
    It returns False where a training could not even begin.

    What `start_training` starts looks for itself whether it is due and alone: two timetables begin nothing twice. `component` is
    told.
    """
    reaper = StaleRunReaper(database, LEASE_FACTOR * settings.lease_seconds)
    while not stop.is_set():
        component.expect_within("the timetable", STUCK_SECONDS)
        reaper.check()
        if database.read(
            lambda connection: is_retraining_due(connection, settings.retrain_at, datetime.now().astimezone())
        ):
            component.clear_expectation("the timetable")  # it may train for hours
            try:
                begun = start_training()
            except BrokerUnavailable:
                begun = False
            if not begun:
                log.warning("a training is due and cannot begin; tried again later")
                stop.wait(RETRY_SECONDS)
        stop.wait(POLL_SECONDS)
