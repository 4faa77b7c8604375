"""The ledger's metrics for Prometheus, collected on request, but not more often than is cheap."""

import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, Final

from prometheus_client.registry import Collector
from sqlalchemy import Connection, func, select

from db.dialect import database_now, force_custom_plans
from db.health import drift, heartbeats, source_silence
from db.ledger import outbox
from db.ledger.statements import in_state
from db.models import Model, Scan, TrainingRun
from db.registry.training_runs import TrainingDecision, TrainingState
from db.session import Database
from db.states import FINAL, WAITING, State
from db.worklist import unscored
from pneumowatch import metrics
from pneumowatch.logs import get_logger
from pneumowatch.metrics import Family
from pneumowatch.model_folder import shipped_folder
from pneumowatch.settings import Settings

log = get_logger("metrics")

METRICS_CACHE_SECONDS: Final = 15.0  # metrics are reused for so long ...
METRICS_CACHE_FACTOR: Final = 20  # ... and for so many times the duration of their collection
COLLECT_TIMEOUT_SECONDS: Final = 5.0  # a request during a collection then gets the previous metrics
TRAINING_OUTCOMES: Final = (TrainingState.RUNNING, TrainingState.FAILED, TrainingState.KILLED, *TrainingDecision)


class LedgerCollector(Collector):
    """The ledger's metrics.

    Args:
        database: one that raises during an outage (`DatabaseUnavailable`), so that a request never waits for its end.
    """

    def __init__(self, database: Database, settings: Settings, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._settings = settings
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._families: list[Family] = [metrics.DATABASE_UP.family({(): 0})]
        self._expires_at = float("-inf")

    def describe(self) -> Iterable[Family]:
        """Return the metrics without values: registering the collector needs no query."""
        return [one.family({}) for one in LEDGER_FAMILIES]

    def collect(self) -> Iterable[Family]:
        if self._lock.acquire(timeout=COLLECT_TIMEOUT_SECONDS):
            try:
                if self._monotonic() >= self._expires_at:
                    self._refresh()
            finally:
                self._lock.release()
        return self._families

    def _refresh(self) -> None:
        began = self._monotonic()
        try:
            self._families = self._database.read(self._collect_families)
        except Exception as error:  # noqa: BLE001 - any error of the database is itself reported as a metric
            log.warning("the ledger's metrics cannot be collected now", error=type(error).__name__)
            self._families = [metrics.DATABASE_UP.family({(): 0})]
        took = self._monotonic() - began
        self._expires_at = began + max(METRICS_CACHE_SECONDS, METRICS_CACHE_FACTOR * took)

    def _collect_families(self, connection: Connection) -> list[Family]:
        force_custom_plans(connection)
        settings, at = self._settings, database_now(connection)
        sources_health = source_silence.assess_sources(
            connection, at, settings.silence_factor, timedelta(minutes=settings.silence_minutes)
        )
        finished = finished_counts(connection)
        return [
            metrics.DATABASE_UP.family({(): 1}),
            *_scan_metrics(connection, finished, at),
            metrics.UNSCORED_SCANS.family({(why,): number for why, number in unscored.counts_by_reason(connection)}),
            *_prediction_metrics(connection, sorted({source for source, _ in finished})),
            metrics.SOURCE_SILENCE.family({(one.source,): one.seconds for one in sources_health}),
            metrics.SOURCE_SILENT.family(
                {(one.source,): one.status is source_silence.SourceStatus.SILENT for one in sources_health}
            ),
            *_component_metrics(connection, settings.lease_seconds),
            *_training_metrics(connection),
            *_outbox_metrics(connection, at),
        ]


LEDGER_FAMILIES: Final = (
    metrics.DATABASE_UP, metrics.SCANS_BY_STATE, metrics.WAITING_SCANS, metrics.OLDEST_WAITING, metrics.UNSCORED_SCANS,
    metrics.FLAGGED_RATIO, metrics.DRIFT_PSI, metrics.SOURCE_SILENCE, metrics.SOURCE_SILENT, metrics.CHAMPION_INFO,
    metrics.HEARTBEAT_AGE, metrics.COMPONENTS, metrics.LAST_TRAINING, metrics.LAST_TRAINING_TIME,
    metrics.OUTBOX_MESSAGES, metrics.OUTBOX_OLDEST,
)  # fmt: skip


def finished_counts(connection: Connection) -> dict[tuple[str, str], float]:
    """Return {(source, state): scans} of the final states, from an index alone."""
    counted = select(Scan.inbox, Scan.state, func.count()).where(in_state(*FINAL)).group_by(Scan.inbox, Scan.state)
    return {(source, state): number for source, state, number in connection.execute(counted)}


def _scan_metrics(connection: Connection, finished: dict[tuple[str, str], float], at: datetime) -> list[Family]:
    sources = {source for source, _ in finished}
    waiting = select(Scan.inbox, Scan.state, func.count(), func.min(Scan.received_at)).where(in_state(*WAITING))
    rows = connection.execute(waiting.group_by(Scan.inbox, Scan.state)).all()
    sources |= {row[0] for row in rows}
    # every source with every state: a count that falls to 0 must be reported as 0
    states = {(source, str(state)): 0.0 for source in sources for state in State} | finished
    count, oldest = dict.fromkeys(((source,) for source in sources), 0.0), {(source,): 0.0 for source in sources}
    for source, state, number, since in rows:
        states[source, state] = number
        count[source,] += number
        oldest[source,] = max(oldest[source,], (at - since).total_seconds())
    return [
        metrics.SCANS_BY_STATE.family(states),
        metrics.WAITING_SCANS.family(count),
        metrics.OLDEST_WAITING.family(oldest),
    ]


def _prediction_metrics(connection: Connection, sources: list[str]) -> list[Family]:
    champion = connection.execute(select(Model.version, Model.card).where(Model.champion)).one_or_none()
    flagged: dict[Any, float] = {}
    psi: dict[Any, float] = {}
    for source in sources:
        predictions = drift.recent_predictions(connection, source)
        if predictions:
            flagged[source,] = sum(one.flagged for one in predictions) / len(predictions)
        if champion:
            found = drift.stability_indexes(predictions, champion.version, _card_of(champion))
            psi |= {(source, quantity): value for quantity, value in found.items()}
    versions: dict[Any, float] = {(champion.version,): 1} if champion else {}
    return [
        metrics.FLAGGED_RATIO.family(flagged),
        metrics.DRIFT_PSI.family(psi),
        metrics.CHAMPION_INFO.family(versions),
    ]


def _card_of(champion: Any) -> Any:
    """Return the champion's card.

    If an earlier version registered the shipped model, the stored card has no reference yet, so the shipped one is
    returned.
    """
    shipped_model = shipped_folder()
    return shipped_model.card if champion.version == shipped_model.version else champion.card


def _component_metrics(connection: Connection, lease_seconds: float) -> list[Family]:
    ages: dict[Any, float] = {}
    counts: dict[Any, float] = {}
    for component in heartbeats.readiness(connection, lease_seconds).components:
        if component.machine:  # a missing worker has none
            ages[component.kind, component.machine] = max(
                ages.get((component.kind, component.machine), 0.0), component.beat_seconds
            )
        for status in heartbeats.HealthStatus:
            counts[component.kind, status] = counts.get((component.kind, status), 0) + (component.status is status)
    return [metrics.HEARTBEAT_AGE.family(ages), metrics.COMPONENTS.family(counts)]


def _training_metrics(connection: Connection) -> list[Family]:
    row = connection.execute(
        select(TrainingRun.state, TrainingRun.decision, TrainingRun.ended_at).order_by(TrainingRun.id.desc()).limit(1)
    ).one_or_none()
    if row is None:
        return [metrics.LAST_TRAINING.family({}), metrics.LAST_TRAINING_TIME.family({})]
    outcome_now = row.decision or row.state
    outcomes = {(str(outcome),): float(outcome == outcome_now) for outcome in TRAINING_OUTCOMES}
    ended_at = {(): row.ended_at.timestamp()} if row.ended_at else {}
    return [metrics.LAST_TRAINING.family(outcomes), metrics.LAST_TRAINING_TIME.family(ended_at)]


def _outbox_metrics(connection: Connection, at: datetime) -> list[Family]:
    counts: dict[Any, float] = {}
    oldest: dict[Any, float] = {}
    for channel, backlog in outbox.backlogs(connection).items():
        counts |= {
            (channel, outbox.OutboxState.WAITING): backlog.waiting,
            (channel, outbox.OutboxState.GIVEN_UP): backlog.given_up,
        }
        if backlog.since is not None:
            oldest[channel,] = (at - backlog.since).total_seconds()
    return [metrics.OUTBOX_MESSAGES.family(counts), metrics.OUTBOX_OLDEST.family(oldest)]
