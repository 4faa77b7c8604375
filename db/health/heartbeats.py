"""Judge the health of components by their heartbeats: a status and one sentence each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Connection, Row, select

from db.dialect import database_now
from db.ledger.statements import in_state
from db.models import Heartbeat, Scan
from db.states import State
from pneumowatch.durations import format_duration

HEARTBEATS: Final[Any] = Heartbeat.__table__
SILENT_AFTER_SECONDS: Final = 30.0  # six heartbeats: a busy machine may miss one or two
WORKER: Final = "worker"
SWEEPERS: Final = ("watcher", "schedule")
# any idle worker should have claimed a scan that was announced this many leases ago, even if its message was lost once
IDLE_LEASES: Final = 2


class HealthStatus(StrEnum):
    HEALTHY = "healthy"
    STALLED = "stalled"  # it runs, but makes no progress
    SILENT = "silent"  # it writes no heartbeat: it is gone, or hangs


@dataclass(frozen=True)
class ComponentHealth:
    """The health of one component, and what to do. Ages in seconds; `done` counts since it started."""

    component: str
    kind: str
    machine: str
    status: HealthStatus
    state: str
    beat_seconds: float
    progress_seconds: float
    done: dict[str, int]
    sentence: str


@dataclass(frozen=True)
class Readiness:
    components: tuple[ComponentHealth, ...]

    @property
    def ready(self) -> bool:
        """Whether no started component is stuck or gone, and no scan waits for a missing worker."""
        return all(component.status is HealthStatus.HEALTHY for component in self.components)


def readiness(connection: Connection, lease_seconds: float) -> Readiness:
    """Judge the health of the components of all machines."""
    at = database_now(connection)
    rows = connection.execute(select(HEARTBEATS).order_by(HEARTBEATS.c.kind, HEARTBEATS.c.started_at)).all()
    components = [_assess(row, at) for row in rows if not _is_replaced(row, rows, at)]
    if _scans_are_waiting(connection, at - IDLE_LEASES * timedelta(seconds=lease_seconds)):
        components = [_stalled_if_idle(component, IDLE_LEASES * lease_seconds) for component in components]
        if not any(component.kind == WORKER for component in components):
            components.append(_MISSING)
    return Readiness(tuple(components))


def sweeper_is_alive(connection: Connection) -> bool:
    """Tell whether a component runs that announces unannounced scans."""
    alive = database_now(connection) - timedelta(seconds=SILENT_AFTER_SECONDS)
    found = select(HEARTBEATS.c.component).where(HEARTBEATS.c.kind.in_(SWEEPERS), HEARTBEATS.c.beat_at > alive)
    return connection.scalar(found.limit(1)) is not None


def _assess(row: Row[Any], at: datetime) -> ComponentHealth:
    beat, progress = (at - row.beat_at).total_seconds(), (at - row.progress_at).total_seconds()
    status, sentence = HealthStatus.HEALTHY, f"{row.state}; last progress {format_duration(progress)} ago"
    # the age of the heartbeat adds to the ages that it reports
    overdue = {
        activity: expectations["idle_seconds"] + beat
        for activity, expectations in row.expectations.items()
        if expectations["idle_seconds"] + beat > expectations["within_seconds"]
    }
    if beat > SILENT_AFTER_SECONDS:
        status = HealthStatus.SILENT
        sentence = (
            f"no heartbeat for {format_duration(beat)}: its process or machine is gone or hangs; "
            "see its log, and start it"
        )
    elif overdue:
        activity = max(overdue, key=lambda activity: overdue[activity])
        status = HealthStatus.STALLED
        sentence = (
            f"runs, but {activity}: no progress for {format_duration(overdue[activity])}; see its log, and restart it"
        )
    return ComponentHealth(
        row.component, row.kind, row.machine, status, row.state, beat, progress, dict(row.done), sentence
    )


def _stalled_if_idle(component: ComponentHealth, max_idle_seconds: float) -> ComponentHealth:
    if (
        component.kind != WORKER
        or component.status is not HealthStatus.HEALTHY
        or component.progress_seconds <= max_idle_seconds
    ):
        return component
    sentence = (
        f"runs, but scans wait and it has processed none for {format_duration(component.progress_seconds)}; restart it"
    )
    return replace(component, status=HealthStatus.STALLED, sentence=sentence)


_MISSING: Final = ComponentHealth(
    WORKER,
    WORKER,
    "",
    HealthStatus.SILENT,
    "missing",
    0.0,
    0.0,
    {},
    "scans wait and there is no worker: start `pneumowatch work` (or `up`)",
)


def _is_replaced(row: Row[Any], rows: Sequence[Row[Any]], at: datetime) -> bool:
    """Tell whether a component is gone and another one was started in its place.

    Each new one replaces one that is gone, the first gone first.
    """
    if not _is_silent(row, at):
        return False
    silent = sorted((one for one in rows if one.kind == row.kind and _is_silent(one, at)), key=lambda one: one.beat_at)
    candidates = sorted(one.started_at for one in rows if one.kind == row.kind and not _is_silent(one, at))
    for one in silent:
        replacement = next((started for started in candidates if started > one.beat_at), None)
        if replacement is not None:
            candidates.remove(replacement)
        if one is row:
            return replacement is not None
    return False


def _is_silent(row: Row[Any], at: datetime) -> bool:
    return (at - row.beat_at).total_seconds() > SILENT_AFTER_SECONDS


def _scans_are_waiting(connection: Connection, since: datetime) -> bool:
    """Tell whether a scan waits that was last announced before `since`."""
    overdue_scan = select(Scan.id).where(in_state(State.QUEUED), Scan.announced_at < since).limit(1)
    return connection.scalar(overdue_scan) is not None
