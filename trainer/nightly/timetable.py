"""When the next training is due, from the recorded attempts: nothing is kept in memory, nothing is missed."""

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
STUCK_SECONDS: Final = 120.0  # without a check, the timetable counts as stuck
RETRY_SECONDS: Final = 600.0  # after a training that could not even start
MAX_ATTEMPTS: Final = 3  # killed attempts in one night: what kills these kills the next one too


def latest_occurrence(now: datetime, at: time) -> datetime:
    """Return the last time that a local clock showed `at`.

    The first of two where it shows it twice; an hour earlier where it skips it (Python versions differ there: the
    earlier of both readings is the same on all).
    """
    for days in (0, 1):
        shown = datetime.combine(now.astimezone().date() - timedelta(days=days), at)
        moment = min(shown.replace(fold=fold).astimezone(UTC) for fold in (0, 1))
        if moment <= now:
            return moment
    raise AssertionError("yesterday's moment is past")


def is_run_due(moment: datetime, known_since: datetime | None, begun: Sequence[TrainingState]) -> bool:
    """Tell whether the training of that moment is still to be done: a night with the machine off is made up.

    Args:
        moment: when it should have started.
        known_since: when the first verdict arrived; a training that was due before is not made up.
        begun: states of the attempts since the moment. An attempt that ended by itself settles the night. One that was
            killed is repeated, up to MAX_ATTEMPTS.
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
    """Call `start_training` whenever a training is due, until `stop`, and mark dead trainings as killed.

    `start_training` returns False where a training could not even start. What it starts checks by itself whether it is
    due and alone: two timetables never start two. `component` reports the health of this loop.
    """
    reaper = StaleRunReaper(database, LEASE_FACTOR * settings.lease_seconds)
    while not stop.is_set():
        component.expect_within("the timetable", STUCK_SECONDS)
        reaper.check()
        if database.read(
            lambda connection: is_retraining_due(connection, settings.retrain_at, datetime.now().astimezone())
        ):
            component.clear_expectation("the timetable")  # a training may take hours
            try:
                begun = start_training()
            except BrokerUnavailable:
                begun = False
            if not begun:
                log.warning("a training is due and cannot start; trying again later")
                stop.wait(RETRY_SECONDS)
        stop.wait(POLL_SECONDS)
