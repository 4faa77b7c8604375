"""The checks of `doctor`. Each message says what is wrong and what to do."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, TypeVar

from sqlalchemy import Connection

from db import deployment, schema
from db.dialect import database_now
from db.health import heartbeats, inbox_presence, source_silence
from db.ledger import outbox, transitions
from db.ledger.outbox import Backlog
from db.registry import model_registry
from db.session import Database
from notify.channels import configured_channels
from pneumowatch import inboxes, model_folder, patient_hashing
from pneumowatch.durations import format_duration
from pneumowatch.errors import PneumowatchError, SettingsError
from pneumowatch.queue import Announcer, make_celery_app
from pneumowatch.settings import Settings
from watcher import mounts

LOW_DISK_BYTES: Final = 2 * 2**30
MAX_CLOCK_SKEW_SECONDS: Final = 5  # between this machine and the database's
STUCK_SECONDS: Final = 3600  # the same as the alert in deploy/prometheus/rules.yml

Result = TypeVar("Result")


@dataclass(frozen=True)
class CheckResult:
    status: str  # ok, info or error
    check: str
    message: str


def run_checks(settings: Settings) -> list[CheckResult]:
    """Run all checks, in the order in which they are shown."""
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
            yield CheckResult("error", check, f"{folder} does not answer; check its share")
        elif not reachable:
            message = f"{folder} is not a folder; create or mount it, or set PNEUMOWATCH_INBOXES"
            yield CheckResult("error", check, message)
        elif not os.access(folder, os.R_OK | os.X_OK):
            yield CheckResult("error", check, f"{folder} cannot be listed; give this user permission to read it")
        elif mounts.events_suffice(folder):
            yield CheckResult("ok", check, f"{folder} is readable; file events work ({mounts.filesystem_type(folder)})")
        else:
            kind = mounts.filesystem_type(folder)
            yield CheckResult(
                "info",
                check,
                f"{folder} is readable; no file events from other machines ({kind}), so it is rescanned often",
            )


def _shares(settings: Settings) -> Iterator[CheckResult]:
    """Report inboxes that a watcher or worker on any machine has found away."""
    states = _query(settings, inbox_presence.inbox_states) or ()
    for one in (one for one in states if one["state"] == inbox_presence.InboxState.UNAVAILABLE):
        since = f"{one['since']:%Y-%m-%d %H:%M} UTC"
        message = f"away on {one['machine']} since {since}: {one['detail']}; mount it again, its scans wait"
        yield CheckResult("error", f"inbox {one['inbox']}", message)


def _data(settings: Settings) -> Iterator[CheckResult]:
    nearest = next(
        path for path in (settings.data_dir.absolute(), *settings.data_dir.absolute().parents) if path.exists()
    )
    if not os.access(nearest, os.W_OK | os.X_OK):
        yield CheckResult("error", "data folder", f"{settings.data_dir} cannot be written to")
        return
    yield _disk_space("disk", nearest, settings.data_dir)
    store = settings.models
    if store.is_dir() and store.stat().st_dev != nearest.stat().st_dev:
        yield _disk_space("model store's disk", store, store)


def _disk_space(check: str, path: Path, shown: Path) -> CheckResult:
    free = shutil.disk_usage(path).free
    if free >= LOW_DISK_BYTES:
        return CheckResult("ok", check, f"{free / 2**30:.1f} GiB free for {shown}")
    return CheckResult(
        "error",
        check,
        f"only {free / 2**30:.1f} GiB free for {shown}; free some space: on a full disk results wait, and images are "
        "not stored",
    )


def _database(settings: Settings) -> Iterator[CheckResult]:
    if not settings.database_url and not (settings.data_dir / "pneumowatch.db").exists():
        yield CheckResult("info", "database", "none yet; `pneumowatch up` creates one")
        return
    try:
        database = Database(settings.database)
        schema.require_current(database)
        skew = abs((database.read(database_now) - datetime.now(UTC)).total_seconds())
    except PneumowatchError as error:
        yield CheckResult("error", "database", str(error))
        return
    yield CheckResult("ok", "database", f"{database.dialect}, tables at revision {schema.head_revision()}")
    if skew > MAX_CLOCK_SKEW_SECONDS:
        yield CheckResult(
            "error", "clock", f"differs by {skew:.0f} s from the database's clock; set up time synchronisation"
        )
    else:
        yield CheckResult("ok", "clock", "agrees with the database's clock")


def _patient_key(settings: Settings) -> CheckResult:
    check, file, known = "patient key", settings.patient_key_path, _known_fingerprint(settings)
    if known is None and not os.access(file, os.F_OK):
        if settings.patient_key_file is not None and not file.parent.is_dir():
            return CheckResult("error", check, f"the folder of {file} does not exist; create it, or set another file")
        return CheckResult("info", check, f"none yet; the first worker, or `pneumowatch up`, creates {file}")
    try:
        fingerprint = patient_hashing.key_fingerprint(patient_hashing.read_key(file))
    except PneumowatchError as error:
        return CheckResult("error", check, str(error))
    if known not in (None, fingerprint):
        return CheckResult(
            "error", check, f"{file} is not the key of this database; restore the key that was used before"
        )
    if file.stat().st_mode & 0o077:
        return CheckResult("info", check, f"{file} is right, but other users may read it; run chmod 600 on it")
    return CheckResult("ok", check, f"{file}, fingerprint {fingerprint[:12]}; keep a copy with your backups")


def _known_fingerprint(settings: Settings) -> str | None:
    return _query(settings, deployment.stored_fingerprint)


def _query(settings: Settings, query: Callable[[Connection], Result]) -> Result | None:
    """Return the query's result; None where there is no database or it does not answer: `_database` reports that."""
    if not settings.database_url and not (settings.data_dir / "pneumowatch.db").exists():
        return None
    try:
        database = Database(settings.database)
        schema.require_current(database)
        return database.read(query)
    except PneumowatchError:
        return None


def _broker(settings: Settings) -> Iterator[CheckResult]:
    if settings.embedded_queue:
        yield CheckResult(
            "info", "broker", "in-process, which is enough for `up`; `watch` and `work` need PNEUMOWATCH_BROKER_URL"
        )
        return
    try:
        held = Announcer(make_celery_app(settings), settings).outstanding()
    except PneumowatchError as error:
        yield CheckResult("error", "broker", f"{error} Check PNEUMOWATCH_BROKER_URL, and that Redis runs.")
    else:
        yield CheckResult("ok", "broker", f"answers; it holds {held} messages")


def _components(settings: Settings) -> Iterator[CheckResult]:
    """Report the health of the running components, and of the sources."""
    readiness = _query(settings, lambda c: heartbeats.readiness(c, settings.lease_seconds))
    if readiness is None:
        return
    for component in readiness.components:
        status = "ok" if component.status is heartbeats.HealthStatus.HEALTHY else "error"
        yield CheckResult(status, component.component, component.sentence)
    if not readiness.components:
        yield CheckResult("info", "components", "none is running: start `pneumowatch up`, or `watch` and `work`")
    minimum = timedelta(minutes=settings.silence_minutes)
    for source in (
        _query(
            settings,
            lambda c: source_silence.assess_sources(c, transitions.utc_now(), settings.silence_factor, minimum),
        )
        or ()
    ):
        status = "error" if source.status is source_silence.SourceStatus.SILENT else "ok"
        yield CheckResult(status, f"source {source.source}", source.sentence)


def _channels(settings: Settings) -> Iterator[CheckResult]:
    """Check the settings of the notification channels, and whether they deliver."""
    try:
        configured_channels(settings, inboxes.configured(settings))
    except SettingsError as error:
        yield CheckResult("error", "notification channels", str(error))
    backlogs = _query(settings, outbox.backlogs) or {}
    for channel in sorted({*settings.notification_channels, *backlogs}):
        yield _channel(channel, backlogs.get(channel, Backlog()), channel in settings.notification_channels)


def _channel(channel: str, backlog: Backlog, is_set: bool) -> CheckResult:
    age = 0.0 if backlog.since is None else (datetime.now(UTC) - backlog.since).total_seconds()
    if backlog.waiting and not is_set:
        message = f"{backlog.waiting} notifications wait, but this channel is not configured here"
        return CheckResult("error", channel, message)
    if backlog.given_up:
        message = f"{backlog.given_up} notifications were given up; see `pneumowatch outbox`, retry with --retry"
        return CheckResult("error", channel, message)
    if age > STUCK_SECONDS:
        message = (
            f"{backlog.waiting} notifications wait, the oldest for {format_duration(age)}; see `pneumowatch outbox`"
        )
        return CheckResult("error", channel, message)
    message = f"{backlog.waiting} notifications wait" if backlog.waiting else "no notification waits"
    return CheckResult("ok", channel, message)


def _model(settings: Settings) -> Iterator[CheckResult]:
    try:
        folder = model_folder.champion_folder(settings.models)
        folder.verify()
    except PneumowatchError as error:
        yield CheckResult("error", "model", str(error))
    else:
        yield CheckResult(
            "ok", "model", f"{folder.version}, threshold {folder.threshold:.3f}, its weights match its card"
        )
        yield from _champion(settings, folder.version)


def _champion(settings: Settings, here: str) -> Iterator[CheckResult]:
    """Check that the model in this machine's store is the champion.

    Yields nothing where the database has no champion, or no worker has filled the store yet.
    """
    champion = _query(settings, model_registry.champion_version)
    if champion is None or not (settings.models / model_folder.CHAMPION_LINK).exists():
        return
    if champion == here:
        yield CheckResult("ok", "champion", f"{champion}, also in this machine's model store")
    else:
        yield CheckResult(
            "error",
            "champion",
            f"{champion} serves, but {settings.models} has {here}: start a worker here, or look in the running "
            "worker's log why it could not load the champion",
        )
