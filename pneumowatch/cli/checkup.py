"""What `doctor` examines, each finding with what to do."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, TypeVar

from sqlalchemy import Connection

from db import deployment, heartbeats, ledger, outbox, presence, registry, schema, silence
from db.dialect import clock
from db.outbox import Backlog
from db.session import Database
from pneumowatch import inboxes, model, patients
from pneumowatch.durations import said
from pneumowatch.errors import PneumowatchError, SettingsError
from pneumowatch.outgoing import couriers
from pneumowatch.queue import Doorbell, make_app
from pneumowatch.settings import Settings
from watcher import mounts

LOW_DISK: Final = 2 * 2**30  # bytes
CLOCK_SKEW: Final = 5  # seconds between this machine and the database's
STUCK_MESSAGES: Final = 3600  # seconds; as the alert of deploy/prometheus/rules.yml

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Finding:
    verdict: str  # good, note or bad
    what: str
    finding: str


def examine(settings: Settings) -> list[Finding]:
    return [
        *_inboxes(settings),
        *_shares(settings),
        *_data(settings),
        *_database(settings),
        _patient_key(settings),
        *_broker(settings),
        *_life(settings),
        *_ways_out(settings),
        *_model(settings),
    ]


def _inboxes(settings: Settings) -> Iterator[Finding]:
    for name, folder in inboxes.named(settings).items():
        what = f"inbox {name}"
        there = inboxes.is_folder(folder)
        if there is None:
            yield Finding("bad", what, f"{folder} does not answer; see to its share")
        elif not there:
            yield Finding("bad", what, f"{folder} is no folder; create or mount it, or set PNEUMOWATCH_INBOXES")
        elif not os.access(folder, os.R_OK | os.X_OK):
            yield Finding("bad", what, f"{folder} may not be listed; give this user permission to read it")
        elif mounts.tells(folder):
            yield Finding("good", what, f"{folder} is readable; file events work ({mounts.kind(folder)})")
        else:
            kind = mounts.kind(folder)
            yield Finding(
                "note",
                what,
                f"{folder} is readable; no file events from other machines ({kind}), it is rescanned often",
            )


def _shares(settings: Settings) -> Iterator[Finding]:
    """Inboxes that a watcher or worker has reported as away, on whichever machine."""
    standings = _asked(settings, presence.standings) or ()
    for one in (one for one in standings if one["state"] == presence.Standing.AWAY):
        since = f"{one['since']:%Y-%m-%d %H:%M} UTC"
        told = f"away on {one['machine']} since {since}: {one['detail']}; mount it again, its films wait"
        yield Finding("bad", f"inbox {one['inbox']}", told)


def _data(settings: Settings) -> Iterator[Finding]:
    nearest = next(
        path for path in (settings.data_dir.absolute(), *settings.data_dir.absolute().parents) if path.exists()
    )
    if not os.access(nearest, os.W_OK | os.X_OK):
        yield Finding("bad", "data folder", f"{settings.data_dir} cannot be written to")
        return
    yield _disk("disk", nearest, settings.data_dir)
    store = settings.models
    if store.is_dir() and store.stat().st_dev != nearest.stat().st_dev:
        yield _disk("model store's disk", store, store)


def _disk(what: str, path: Path, shown: Path) -> Finding:
    free = shutil.disk_usage(path).free
    if free >= LOW_DISK:
        return Finding("good", what, f"{free / 2**30:.1f} GiB free for {shown}")
    return Finding(
        "bad", what, f"only {free / 2**30:.1f} GiB free for {shown}; make room: results wait, and films are not kept"
    )


def _database(settings: Settings) -> Iterator[Finding]:
    if not settings.database_url and not (settings.data_dir / "pneumowatch.db").exists():
        yield Finding("note", "database", "none yet; `pneumowatch up` makes one")
        return
    try:
        database = Database(settings.database)
        schema.require_current(database)
        skew = abs((database.read(clock) - datetime.now(UTC)).total_seconds())
    except PneumowatchError as error:
        yield Finding("bad", "database", str(error))
        return
    yield Finding("good", "database", f"{database.dialect}, tables at revision {schema.head()}")
    if skew > CLOCK_SKEW:
        yield Finding(
            "bad", "clock", f"this machine and the database's differ by {skew:.0f} s; set up time synchronisation"
        )
    else:
        yield Finding("good", "clock", "agrees with the database's")


def _patient_key(settings: Settings) -> Finding:
    what, file, known = "patient key", settings.patient_key_path, _known_fingerprint(settings)
    if known is None and not os.access(file, os.F_OK):
        if settings.patient_key_file is not None and not file.parent.is_dir():
            return Finding("bad", what, f"the folder of {file} is not there; make it, or name another file")
        return Finding("note", what, f"none yet; the first worker, or `pneumowatch up`, makes {file}")
    try:
        fingerprint = patients.fingerprint(patients.read(file))
    except PneumowatchError as error:
        return Finding("bad", what, str(error))
    if known not in (None, fingerprint):
        return Finding("bad", what, f"{file} is not the key of this database; restore the one that was used before")
    if file.stat().st_mode & 0o077:
        return Finding("note", what, f"{file} is right, but not its owner's alone: chmod 600 it")
    return Finding("good", what, f"{file}, fingerprint {fingerprint[:12]}; keep a copy where backups are")


def _known_fingerprint(settings: Settings) -> str | None:
    return _asked(settings, deployment.known_fingerprint)


def _asked(settings: Settings, what: Callable[[Connection], Answer]) -> Answer | None:
    """What the database says; None also where it does not answer or is none yet, of which `_database` tells."""
    if not settings.database_url and not (settings.data_dir / "pneumowatch.db").exists():
        return None
    try:
        database = Database(settings.database)
        schema.require_current(database)
        return database.read(what)
    except PneumowatchError:
        return None


def _broker(settings: Settings) -> Iterator[Finding]:
    if settings.embedded_queue:
        yield Finding("note", "broker", "in-process: enough for `up`; `watch` and `work` need PNEUMOWATCH_BROKER_URL")
        return
    try:
        held = Doorbell(make_app(settings), settings).holds()
    except PneumowatchError as error:
        yield Finding("bad", "broker", f"{error} Is PNEUMOWATCH_BROKER_URL right, and Redis running?")
    else:
        yield Finding("good", "broker", f"answers; it holds {held} messages")


def _life(settings: Settings) -> Iterator[Finding]:
    """What runs, and which sources send."""
    alive = _asked(settings, lambda c: heartbeats.readiness(c, settings.lease_seconds))
    if alive is None:
        return
    for part in alive.parts:
        verdict = "good" if part.verdict is heartbeats.Verdict.WELL else "bad"
        yield Finding(verdict, part.part, part.sentence)
    if not alive.parts:
        yield Finding("note", "parts", "none is running: start `pneumowatch up`, or `watch` and `work`")
    minimum = timedelta(minutes=settings.silence_minutes)
    for source in _asked(settings, lambda c: silence.silences(c, ledger.now(), settings.silence_factor, minimum)) or ():
        verdict = "bad" if source.verdict is silence.Verdict.SILENT else "good"
        yield Finding(verdict, f"source {source.source}", source.sentence)


def _ways_out(settings: Settings) -> Iterator[Finding]:
    """Who is told of flagged films: whether it can work as it is set, and whether it does."""
    try:
        couriers(settings, inboxes.named(settings))
    except SettingsError as error:
        yield Finding("bad", "ways out", str(error))
    backlogs = _asked(settings, outbox.backlogs) or {}
    for way in sorted({*settings.destinations, *backlogs}):
        yield _way_out(way, backlogs.get(way, Backlog()), way in settings.destinations)


def _way_out(way: str, backlog: Backlog, is_set: bool) -> Finding:
    age = 0.0 if backlog.since is None else (datetime.now(UTC) - backlog.since).total_seconds()
    if backlog.waiting and not is_set:
        return Finding("bad", way, f"{backlog.waiting} messages wait, but where to is not set here")
    if backlog.given_up:
        told = f"{backlog.given_up} messages were given up; `pneumowatch outbox` says why, --again tries them again"
        return Finding("bad", way, told)
    if age > STUCK_MESSAGES:
        told = f"{backlog.waiting} messages wait, the oldest for {said(age)}; `pneumowatch outbox` says why"
        return Finding("bad", way, told)
    return Finding("good", way, f"{backlog.waiting} messages wait" if backlog.waiting else "no message waits")


def _model(settings: Settings) -> Iterator[Finding]:
    try:
        folder = model.champion(settings.models)
        folder.verify()
    except PneumowatchError as error:
        yield Finding("bad", "model", str(error))
    else:
        yield Finding(
            "good", "model", f"{folder.version}, threshold {folder.threshold:.3f}, its weights are as its card says"
        )
        yield from _champion(settings, folder.version)


def _champion(settings: Settings, here: str) -> Iterator[Finding]:
    """Whether the model of this machine's store is the one that serves. Nothing where the database tells of none, or
    where no worker has filled the store yet."""
    champion = _asked(settings, registry.champion)
    if champion is None or not (settings.models / model.CHAMPION).exists():
        return
    if champion == here:
        yield Finding("good", "champion", f"{champion}, in this machine's model store too")
    else:
        yield Finding(
            "bad",
            "champion",
            f"{champion} serves, but {settings.models} has {here}: start a worker here, or see in the log of the one "
            "that runs why it could not take it",
        )
