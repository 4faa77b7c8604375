"""What `doctor` examines, each finding with what to do."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Connection, text

from db import deployment, presence, schema
from db.session import Database
from pneumowatch import inboxes, model, patients
from pneumowatch.errors import PneumowatchError
from pneumowatch.queue import Doorbell, make_app
from pneumowatch.settings import Settings
from watcher import mounts

LOW_DISK: Final = 2 * 2**30  # bytes
CLOCK_SKEW: Final = 5  # seconds between this machine and the database's


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
    if not settings.database_url and not (settings.data_dir / "pneumowatch.db").exists():
        return
    try:
        database = Database(settings.database)
        schema.require_current(database)
        away = [one for one in database.read(presence.standings) if one["state"] == presence.Standing.AWAY]
    except PneumowatchError:  # of which `_database` tells
        return
    for one in away:
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
    free = shutil.disk_usage(nearest).free
    verdict = "good" if free >= LOW_DISK else "bad"
    yield Finding(verdict, "disk", f"{free / 2**30:.1f} GiB free for {settings.data_dir}")


def _database(settings: Settings) -> Iterator[Finding]:
    if not settings.database_url and not (settings.data_dir / "pneumowatch.db").exists():
        yield Finding("note", "database", "none yet; `pneumowatch up` makes one")
        return
    try:
        database = Database(settings.database)
        schema.require_current(database)
        skew = abs((database.read(_its_time) - datetime.now(UTC)).total_seconds())
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
    """What the database says; None also where it does not answer or is none yet, of which `_database` tells."""
    if not settings.database_url and not (settings.data_dir / "pneumowatch.db").exists():
        return None
    try:
        database = Database(settings.database)
        schema.require_current(database)
        return database.read(deployment.known_fingerprint)
    except PneumowatchError:
        return None


def _its_time(connection: Connection) -> datetime:
    if connection.dialect.name == "sqlite":
        return datetime.fromisoformat(connection.scalar(text("SELECT strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now')")))
    return connection.execute(text("SELECT clock_timestamp()")).scalar_one()


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
