"""What Prometheus is told of the ledger: counted when it asks, and not more often than that is cheap."""

import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, Final

from prometheus_client.registry import Collector
from sqlalchemy import Connection, func, select

from db import drift, heartbeats, outbox, silence, unscored
from db.dialect import clock, plan_anew
from db.models import Model, Scan, Training
from db.session import Database
from db.statements import in_state
from db.states import FINAL, WAITING, State
from db.training import Decision
from db.training import State as TrainingState
from pneumowatch import metrics
from pneumowatch.logs import get
from pneumowatch.metrics import Family
from pneumowatch.model import shipped
from pneumowatch.settings import Settings

log = get("metrics")

FRESH_SECONDS: Final = 15.0  # what was counted is told again for so long, ...
SHARE: Final = 20  # ... and for so many times as long as the counting took
HURRY_SECONDS: Final = 5.0  # who asks while it is being counted is told what was counted before
OUTCOMES: Final = (TrainingState.RUNNING, TrainingState.FAILED, TrainingState.KILLED, *Decision)


class Census(Collector):
    """The ledger's metrics.

    Args:
        database: one that raises during an outage (`DatabaseAway`): metrics are told now, or not at all.
    """

    def __init__(self, database: Database, settings: Settings, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._settings = settings
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._told: list[Family] = [metrics.DATABASE_UP.family({(): 0})]
        self._due = float("-inf")

    def describe(self) -> Iterable[Family]:
        """By name alone: to be registered, nothing need be counted."""
        return [one.family({}) for one in LEDGER]

    def collect(self) -> Iterable[Family]:
        if self._lock.acquire(timeout=HURRY_SECONDS):
            try:
                if self._monotonic() >= self._due:
                    self._count()
            finally:
                self._lock.release()
        return self._told

    def _count(self) -> None:
        began = self._monotonic()
        try:
            self._told = self._database.read(self._counted)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the database, that itself is told
            log.warning("the ledger cannot be counted now", error=type(error).__name__)
            self._told = [metrics.DATABASE_UP.family({(): 0})]
        took = self._monotonic() - began
        self._due = began + max(FRESH_SECONDS, SHARE * took)

    def _counted(self, connection: Connection) -> list[Family]:
        plan_anew(connection)
        given, at = self._settings, clock(connection)
        silences = silence.silences(connection, at, given.silence_factor, timedelta(minutes=given.silence_minutes))
        films = ended(connection)
        return [
            metrics.DATABASE_UP.family({(): 1}),
            *_films(connection, films, at),
            metrics.UNSCORED.family({(why,): number for why, number in unscored.groups(connection)}),
            *_readings(connection, sorted({source for source, _ in films})),
            metrics.SILENCE.family({(one.source,): one.seconds for one in silences}),
            metrics.SILENT.family({(one.source,): one.verdict is silence.Verdict.SILENT for one in silences}),
            *_parts(connection, given.lease_seconds),
            *_training(connection),
            *_outbox(connection, at),
        ]


LEDGER: Final = (
    metrics.DATABASE_UP, metrics.FILMS, metrics.WAITING, metrics.OLDEST, metrics.UNSCORED, metrics.FLAGGED,
    metrics.DRIFT, metrics.SILENCE, metrics.SILENT, metrics.CHAMPION, metrics.HEARTBEAT, metrics.PARTS,
    metrics.TRAINING, metrics.TRAINED_AT, metrics.OUTBOX, metrics.OUTBOX_OLDEST,
)  # fmt: skip


def ended(connection: Connection) -> dict[tuple[str, str], float]:
    """{(source, state): scans} of those with a final state, from an index alone."""
    counted = select(Scan.inbox, Scan.state, func.count()).where(in_state(*FINAL)).group_by(Scan.inbox, Scan.state)
    return {(source, state): number for source, state, number in connection.execute(counted)}


def _films(connection: Connection, films: dict[tuple[str, str], float], at: datetime) -> list[Family]:
    sources = {source for source, _ in films}
    waiting = select(Scan.inbox, Scan.state, func.count(), func.min(Scan.received_at)).where(in_state(*WAITING))
    rows = connection.execute(waiting.group_by(Scan.inbox, Scan.state)).all()
    sources |= {row[0] for row in rows}
    # every source with every state: what falls to nothing must be seen to be 0
    states = {(source, str(state)): 0.0 for source in sources for state in State} | films
    count, oldest = dict.fromkeys(((source,) for source in sources), 0.0), {(source,): 0.0 for source in sources}
    for source, state, number, since in rows:
        states[source, state] = number
        count[source,] += number
        oldest[source,] = max(oldest[source,], (at - since).total_seconds())
    return [metrics.FILMS.family(states), metrics.WAITING.family(count), metrics.OLDEST.family(oldest)]


def _readings(connection: Connection, sources: list[str]) -> list[Family]:
    champion = connection.execute(select(Model.version, Model.card).where(Model.champion)).one_or_none()
    flagged: dict[Any, float] = {}
    psi: dict[Any, float] = {}
    for source in sources:
        readings = drift.last_read(connection, source)
        if readings:
            flagged[source,] = sum(one.flagged for one in readings) / len(readings)
        if champion:
            found = drift.measured(readings, champion.version, _card(champion))
            psi |= {(source, of): value for of, value in found.items()}
    versions: dict[Any, float] = {(champion.version,): 1} if champion else {}
    return [metrics.FLAGGED.family(flagged), metrics.DRIFT.family(psi), metrics.CHAMPION.family(versions)]


def _card(champion: Any) -> Any:
    """Where an earlier version made the shipped model known, its card has no reference yet, but the shipped one has."""
    here = shipped()
    return here.card if champion.version == here.version else champion.card


def _parts(connection: Connection, lease_seconds: float) -> list[Family]:
    ages: dict[Any, float] = {}
    counts: dict[Any, float] = {}
    for part in heartbeats.readiness(connection, lease_seconds).parts:
        if part.machine:  # a worker that is missing has none
            ages[part.kind, part.machine] = max(ages.get((part.kind, part.machine), 0.0), part.beat_seconds)
        for verdict in heartbeats.Verdict:
            counts[part.kind, verdict] = counts.get((part.kind, verdict), 0) + (part.verdict is verdict)
    return [metrics.HEARTBEAT.family(ages), metrics.PARTS.family(counts)]


def _training(connection: Connection) -> list[Family]:
    row = connection.execute(
        select(Training.state, Training.decision, Training.ended_at).order_by(Training.id.desc()).limit(1)
    ).one_or_none()
    if row is None:
        return [metrics.TRAINING.family({}), metrics.TRAINED_AT.family({})]
    came_to = row.decision or row.state
    outcomes = {(str(outcome),): float(outcome == came_to) for outcome in OUTCOMES}
    ended_at = {(): row.ended_at.timestamp()} if row.ended_at else {}
    return [metrics.TRAINING.family(outcomes), metrics.TRAINED_AT.family(ended_at)]


def _outbox(connection: Connection, at: datetime) -> list[Family]:
    counts: dict[Any, float] = {}
    oldest: dict[Any, float] = {}
    for way, backlog in outbox.backlogs(connection).items():
        counts |= {(way, outbox.State.WAITING): backlog.waiting, (way, outbox.State.GIVEN_UP): backlog.given_up}
        if backlog.since is not None:
            oldest[way,] = (at - backlog.since).total_seconds()
    return [metrics.OUTBOX.family(counts), metrics.OUTBOX_OLDEST.family(oldest)]
