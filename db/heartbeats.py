"""Who watches the watchers: what the parts' heartbeats say of them, in one word and one sentence each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Connection, Row, select

from db.dialect import clock
from db.models import Heartbeat, Scan
from db.statements import in_state
from db.states import State
from pneumowatch.durations import said

HEARTBEATS: Final[Any] = Heartbeat.__table__
SILENT_SECONDS: Final = 30.0  # six beats: a machine that is busy may lose one or two
WORKER: Final = "worker"
SWEEPERS: Final = ("watcher", "schedule")
LEASES: Final = 2  # a film that was announced this long ago, its message lost once, should have found any idle worker


class Verdict(StrEnum):
    WELL = "well"
    STALLED = "stalled"  # it lives, and does not do what it should
    SILENT = "silent"  # nothing is heard of it: it is gone


@dataclass(frozen=True)
class Vital:
    """One part, its verdict, and what to do. Ages in seconds; `done` counts since it started."""

    part: str
    kind: str
    machine: str
    verdict: Verdict
    state: str
    beat_seconds: float
    progress_seconds: float
    done: dict[str, int]
    sentence: str


@dataclass(frozen=True)
class Readiness:
    parts: tuple[Vital, ...]

    @property
    def ready(self) -> bool:
        """Nothing that was started is stuck or gone, and no film waits for a worker that is not there."""
        return all(part.verdict is Verdict.WELL for part in self.parts)


def readiness(connection: Connection, lease_seconds: float) -> Readiness:
    """How the parts are, those of all machines."""
    at = clock(connection)
    rows = connection.execute(select(HEARTBEATS).order_by(HEARTBEATS.c.kind, HEARTBEATS.c.started_at)).all()
    parts = [_examine(row, at) for row in rows if not _replaced(row, rows, at)]
    if _films_are_left(connection, at - LEASES * timedelta(seconds=lease_seconds)):
        parts = [_idle_in_need(part, LEASES * lease_seconds) for part in parts]
        if not any(part.kind == WORKER for part in parts):
            parts.append(_MISSING)
    return Readiness(tuple(parts))


def sweeps(connection: Connection) -> bool:
    """Whether a part is alive that announces what waits unannounced."""
    alive = clock(connection) - timedelta(seconds=SILENT_SECONDS)
    found = select(HEARTBEATS.c.part).where(HEARTBEATS.c.kind.in_(SWEEPERS), HEARTBEATS.c.beat_at > alive)
    return connection.scalar(found.limit(1)) is not None


def _examine(row: Row[Any], at: datetime) -> Vital:
    beat, progress = (at - row.beat_at).total_seconds(), (at - row.progress_at).total_seconds()
    verdict, sentence = Verdict.WELL, f"{row.state}; last got something done {said(progress)} ago"
    # a beat that is late ages what it told
    late = {duty: owed["moved"] + beat for duty, owed in row.owed.items() if owed["moved"] + beat > owed["within"]}
    if beat > SILENT_SECONDS:
        verdict = Verdict.SILENT
        sentence = f"not heard of for {said(beat)}: its process or machine is gone, or hangs; see its log, and start it"
    elif late:
        duty = max(late, key=lambda duty: late[duty])
        verdict = Verdict.STALLED
        sentence = f"lives, but {duty}: no progress for {said(late[duty])}; see its log, and start it anew"
    return Vital(row.part, row.kind, row.machine, verdict, row.state, beat, progress, dict(row.done), sentence)


def _idle_in_need(part: Vital, patience: float) -> Vital:
    if part.kind != WORKER or part.verdict is not Verdict.WELL or part.progress_seconds <= patience:
        return part
    sentence = f"lives, but films wait and it has read none for {said(part.progress_seconds)}; start it anew"
    return replace(part, verdict=Verdict.STALLED, sentence=sentence)


_MISSING: Final = Vital(
    WORKER,
    WORKER,
    "",
    Verdict.SILENT,
    "missing",
    0.0,
    0.0,
    {},
    "films wait and there is no worker: start `pneumowatch work` (or `up`)",
)


def _replaced(row: Row[Any], rows: Sequence[Row[Any]], at: datetime) -> bool:
    """Whether another one has been started in the place of this one, which is gone: one for each, the first gone
    first."""
    if not _gone(row, at):
        return False
    gone = sorted((one for one in rows if one.kind == row.kind and _gone(one, at)), key=lambda one: one.beat_at)
    new = sorted(one.started_at for one in rows if one.kind == row.kind and not _gone(one, at))
    for one in gone:
        successor = next((started for started in new if started > one.beat_at), None)
        if successor is not None:
            new.remove(successor)
        if one is row:
            return successor is not None
    return False


def _gone(row: Row[Any], at: datetime) -> bool:
    return (at - row.beat_at).total_seconds() > SILENT_SECONDS


def _films_are_left(connection: Connection, since: datetime) -> bool:
    """Whether a film waits that was last announced before then."""
    announced = select(Scan.id).where(in_state(State.QUEUED), Scan.rung_at < since).limit(1)
    return connection.scalar(announced) is not None
