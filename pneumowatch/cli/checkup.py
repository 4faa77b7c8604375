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
from db.dialect import database_now
from db.outbox import Backlog
from db.session import Database
from pneumowatch import inboxes, model, patients
from pneumowatch.durations import format_duration
from pneumowatch.errors import PneumowatchError, SettingsError
from pneumowatch.outgoing import configured_channels
from pneumowatch.queue import Announcer, make_celery_app
from pneumowatch.settings import Settings
from watcher import mounts

LOW_DISK_BYTES: Final = 2 * 2**30  # bytes
MAX_CLOCK_SKEW_SECONDS: Final = 5  # seconds between this machine and the database's
STUCK_SECONDS: Final = 3600  # seconds; as the alert of deploy/prometheus/rules.yml

Result = TypeVar("Answer")


@dataclass(frozen=True)
class CheckResult:
    status: str  # good, note or bad
    check: str
    message: str


def run_checks(settings: Settings) -> list[CheckResult]:
    return [
        *_inboxes(settings),
        *_shares(settings),
        *_data(settings),
        *_database(settings),
        _patient_key(settings),
        *_broker(settings),
        *_components(settings),
        *_channels(settings),
        *_model(settings),
    ]


def _inboxes(settings: Settings) -> Iterator[CheckResult]:
    for name, folder in inboxes.configured(settings).items():
        check = f"inbox {name}"
        reachable = inboxes.is_folder(folder)
        if reachable is None:
            yield CheckResult("bad", check, f"{folder} does not answer; see to its share")
        elif not reachable:
            yield CheckResult("bad", check, f"{folder} is no folder; create or mount it, or set PNEUMOWATCH_INBOXES")
        elif not os.access(folder, os.R_OK | os.X_OK):
            yield CheckResult("bad", check, f"{folder} may not be listed; give this user permission to read it")
        elif mounts.events_suffice(folder):
            yield CheckResult(
                "good", check, f"{folder} is readable; file events work ({mounts.filesystem_type(folder)})"
            )
        else:
            kind = mounts.filesystem_type(folder)
            yield CheckResult(
                "note",
                check,
                f"{folder} is readable; no file events from other machines ({kind}), it is rescanned often",
            )


def _shares(settings: Settings) -> Iterator[CheckResult]:
    """Inboxes that a watcher or worker has reported as away, on whichever machine."""
    standings = _query(settings, presence.inbox_states) or ()
    for one in (one for one in standings if one["state"] == presence.InboxState.UNAVAILABLE):
        since = f"{one['since']:%Y-%m-%d %H:%M} UTC"
        message = f"away on {one['machine']} since {since}: {one['detail']}; mount it again, its films wait"
        yield CheckResult("bad", f"inbox {one['inbox']}", message)


def _data(settings: Settings) -> Iterator[CheckResult]:
    nearest = next(
        path for path in (settings.data_dir.absolute(), *settings.data_dir.absolute().parents) if path.exists()
    )
    if not os.access(nearest, os.W_OK | os.X_OK):
        yield CheckResult("bad", "data folder", f"{settings.data_dir} cannot be written to")
        return
    yield _disk_space("disk", nearest, settings.data_dir)
    store = settings.models
    if store.is_dir() and store.stat().st_dev != nearest.stat().st_dev:
        yield _disk_space("model store's disk", store, store)


def _disk_space(check: str, path: Path, shown: Path) -> CheckResult:
    free = shutil.disk_usage(path).free
    if free >= LOW_DISK_BYTES:
        return CheckResult("good", check, f"{free / 2**30:.1f} GiB free for {shown}")
    return CheckResult(
        "bad", check, f"only {free / 2**30:.1f} GiB free for {shown}; make room: results wait, and films are not kept"
    )


def _database(settings: Settings) -> Iterator[CheckResult]:
    if not settings.database_url and not (settings.data_dir / "pneumowatch.db").exists():
        yield CheckResult("note", "database", "none yet; `pneumowatch up` makes one")
        return
    try:
        database = Database(settings.database)
        schema.require_current(database)
        skew = abs((database.read(database_now) - datetime.now(UTC)).total_seconds())
    except PneumowatchError as error:
        yield CheckResult("bad", "database", str(error))
        return
    yield CheckResult("good", "database", f"{database.dialect}, tables at revision {schema.head_revision()}")
    if skew > MAX_CLOCK_SKEW_SECONDS:
        yield CheckResult(
            "bad", "clock", f"this machine and the database's differ by {skew:.0f} s; set up time synchronisation"
        )
    else:
        yield CheckResult("good", "clock", "agrees with the database's")


def _patient_key(settings: Settings) -> CheckResult:
    check, file, known = "patient key", settings.patient_key_path, _known_fingerprint(settings)
    if known is None and not os.access(file, os.F_OK):
        if settings.patient_key_file is not None and not file.parent.is_dir():
            return CheckResult("bad", check, f"the folder of {file} is not there; make it, or name another file")
        return CheckResult("note", check, f"none yet; the first worker, or `pneumowatch up`, makes {file}")
    try:
        fingerprint = patients.key_fingerprint(patients.read_key(file))
    except PneumowatchError as error:
        return CheckResult("bad", check, str(error))
    if known not in (None, fingerprint):
        return CheckResult(
            "bad", check, f"{file} is not the key of this database; restore the one that was used before"
        )
    if file.stat().st_mode & 0o077:
        return CheckResult("note", check, f"{file} is right, but not its owner's alone: chmod 600 it")
    return CheckResult("good", check, f"{file}, fingerprint {fingerprint[:12]}; keep a copy where backups are")


def _known_fingerprint(settings: Settings) -> str | None:
    return _query(settings, deployment.stored_fingerprint)


def _query(settings: Settings, check: Callable[[Connection], Result]) -> Result | None:
    """What the database says; None also where it does not answer or is none yet, of which `_database` tells."""
    if not settings.database_url and not (settings.data_dir / "pneumowatch.db").exists():
        return None
    try:
        database = Database(settings.database)
        schema.require_current(database)
        return database.read(check)
    except PneumowatchError:
        return None


def _broker(settings: Settings) -> Iterator[CheckResult]:
    if settings.embedded_queue:
        yield CheckResult(
            "note", "broker", "in-process: enough for `up`; `watch` and `work` need PNEUMOWATCH_BROKER_URL"
        )
        return
    try:
        held = Announcer(make_celery_app(settings), settings).holds()
    except PneumowatchError as error:
        yield CheckResult("bad", "broker", f"{error} Is PNEUMOWATCH_BROKER_URL right, and Redis running?")
    else:
        yield CheckResult("good", "broker", f"answers; it holds {held} messages")


def _components(settings: Settings) -> Iterator[CheckResult]:
    """What runs, and which sources send."""
    alive = _query(settings, lambda c: heartbeats.readiness(c, settings.lease_seconds))
    if alive is None:
        return
    for component in alive.components:
        status = "good" if component.status is heartbeats.HealthStatus.HEALTHY else "bad"
        yield CheckResult(status, component.component, component.sentence)
    if not alive.components:
        yield CheckResult("note", "parts", "none is running: start `pneumowatch up`, or `watch` and `work`")
    minimum = timedelta(minutes=settings.silence_minutes)
    for source in (
        _query(settings, lambda c: silence.assess_sources(c, ledger.utc_now(), settings.silence_factor, minimum)) or ()
    ):
        status = "bad" if source.status is silence.SourceStatus.SILENT else "good"
        yield CheckResult(status, f"source {source.source}", source.sentence)


def _channels(settings: Settings) -> Iterator[CheckResult]:
    """Who is told of flagged films: whether it can work as it is set, and whether it does."""
    try:
        configured_channels(settings, inboxes.configured(settings))
    except SettingsError as error:
        yield CheckResult("bad", "ways out", str(error))
    backlogs = _query(settings, outbox.backlogs) or {}
    for channel in sorted({*settings.destinations, *backlogs}):
        yield _channel(channel, backlogs.get(channel, Backlog()), channel in settings.destinations)


def _channel(channel: str, backlog: Backlog, is_set: bool) -> CheckResult:
    age = 0.0 if backlog.since is None else (datetime.now(UTC) - backlog.since).total_seconds()
    if backlog.waiting and not is_set:
        return CheckResult("bad", channel, f"{backlog.waiting} messages wait, but where to is not set here")
    if backlog.given_up:
        message = f"{backlog.given_up} messages were given up; `pneumowatch outbox` says why, --again tries them again"
        return CheckResult("bad", channel, message)
    if age > STUCK_SECONDS:
        message = (
            f"{backlog.waiting} messages wait, the oldest for {format_duration(age)}; `pneumowatch outbox` says why"
        )
        return CheckResult("bad", channel, message)
    return CheckResult("good", channel, f"{backlog.waiting} messages wait" if backlog.waiting else "no message waits")


def _model(settings: Settings) -> Iterator[CheckResult]:
    try:
        folder = model.champion_folder(settings.models)
        folder.verify()
    except PneumowatchError as error:
        yield CheckResult("bad", "model", str(error))
    else:
        yield CheckResult(
            "good", "model", f"{folder.version}, threshold {folder.threshold:.3f}, its weights are as its card says"
        )
        yield from _champion(settings, folder.version)


def _champion(settings: Settings, here: str) -> Iterator[CheckResult]:
    """Whether the model of this machine's store is the one that serves. Nothing where the database tells of none, or
    where no worker has filled the store yet."""
    champion = _query(settings, registry.champion_version)
    if champion is None or not (settings.models / model.CHAMPION_LINK).exists():
        return
    if champion == here:
        yield CheckResult("good", "champion", f"{champion}, in this machine's model store too")
    else:
        yield CheckResult(
            "bad",
            "champion",
            f"{champion} serves, but {settings.models} has {here}: start a worker here, or see in the log of the one "
            "that runs why it could not take it",
        )
