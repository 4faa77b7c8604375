"""When the next training is due, by the attempts that there were: nothing is kept in memory, nothing is missed."""

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, time, timedelta
from typing import Final

from sqlalchemy import Connection

from db import training
from db.pulse import Part
from db.session import Database
from db.training import LEASES, State, Watchman
from pneumowatch.errors import BrokerAway
from pneumowatch.logs import get
from pneumowatch.settings import Settings

log = get("training")

NEVER: Final = "never"
LOOK_SECONDS: Final = 20.0
STUCK_SECONDS: Final = 120.0  # without a look, it hangs
RETRY_SECONDS: Final = 600.0  # after one that could not even begin
ATTEMPTS: Final = 3  # that may be killed in one night; what kills more of them kills the next one too


def moment_before(now: datetime, at: time) -> datetime:
    """The last time that a local clock showed `at`: the first of two where it shows it twice, an hour earlier where it
    leaves it out (Pythons differ there: the earlier of both readings is the same on all)."""
    for days in (0, 1):
        shown = datetime.combine(now.astimezone().date() - timedelta(days=days), at)
        moment = min(shown.replace(fold=fold).astimezone(UTC) for fold in (0, 1))
        if moment <= now:
            return moment
    raise AssertionError("yesterday's moment is past")


def due(moment: datetime, known_since: datetime | None, begun: Sequence[State]) -> bool:
    """Whether the training of that moment is still to be done: a night with the machine off is made up.

    Args:
        moment: when it was to begin.
        known_since: when there was first something to learn; what had not begun then is not made up.
        begun: states of the attempts since the moment. Whatever decision one came to is the night's; one that was
            killed is made up, but not for ever.
    """
    if known_since is None or known_since >= moment:
        return False
    return all(state == State.KILLED for state in begun) and len(begun) < ATTEMPTS


def is_due(connection: Connection, retrain_at: str, now: datetime) -> bool:
    if retrain_at == NEVER:
        return False
    moment = moment_before(now, time.fromisoformat(retrain_at))
    return due(moment, training.known_since(connection), training.begun_since(connection, moment))


def follow(
    settings: Settings, database: Database, begin: Callable[[], bool], stop: threading.Event, part: Part
) -> None:
    """Until `stop`: call `begin` whenever a training is due, and see that dead ones are told from those that live.
    It returns False where a training could not even begin.

    What `begin` starts looks for itself whether it is due and alone: two timetables begin nothing twice. `part` is
    told.
    """
    watchman = Watchman(database, LEASES * settings.lease_seconds)
    while not stop.is_set():
        part.promise("the timetable", STUCK_SECONDS)
        watchman.look()
        if database.read(lambda connection: is_due(connection, settings.retrain_at, datetime.now().astimezone())):
            part.keep("the timetable")  # it may train for hours
            try:
                begun = begin()
            except BrokerAway:
                begun = False
            if not begun:
                log.warning("a training is due and cannot begin; tried again later")
                stop.wait(RETRY_SECONDS)
        stop.wait(LOOK_SECONDS)
