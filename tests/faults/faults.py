"""The list of faults, in the order in which they run: what each is called, and on which installation."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from services import postgres_server, redis_server

from faults import company, deaths, outages, storage
from faults.rig import SABOTAGED, Deployed, Embedded, Rig
from faults.stage import FULL, Pace, Stage


@dataclass(frozen=True)
class Fault:
    """A fault: `name` selects it, `title` is for the table; `home`: deployed, up, or cramped (`up`, small disk)."""

    name: str
    title: str
    home: str
    act: Callable[[Stage[Any]], None]
    missing: Callable[[], str] = lambda: ""  # what this machine lacks for it; empty: nothing


@contextmanager
def installation(home: str, folder: Path, pace: Pace) -> Iterator[Rig]:
    """Start an installation, for all faults of its kind. Raises ServiceMissing."""
    if home == "deployed":
        with (
            redis_server() as redis,
            postgres_server(durable=True) as postgres,
            closing(Deployed(folder, pace.lease, redis, postgres, max_attempts=pace.attempts)) as deployed,
        ):
            deployed.up()
            yield deployed
    elif home == "up":
        with closing(Embedded(folder, pace.lease)) as embedded:
            # shorten SQLite's busy timeout, so that an outage of seconds exceeds it
            embedded.up(SABOTAGED, {} if pace is FULL else {"SABOTAGE_BUSY_SECONDS": "1"})
            yield embedded
    else:
        with closing(storage.Cramped(folder, pace.lease, keep_images="all")) as cramped:
            cramped.up()
            yield cramped


FAULTS: Final = (
    Fault("worker-killed", "worker killed (SIGKILL) in mid-batch", "deployed", deaths.worker_killed),
    Fault("worker-drained", "worker stopped (SIGTERM) under load", "deployed", deaths.worker_drained),
    Fault("decoder-killed", "decoding child processes killed", "deployed", deaths.decoder_killed),
    Fault("redis-flushed", "Redis flushed", "deployed", outages.redis_flushed),
    Fault("redis-restarted", "Redis killed and restarted", "deployed", outages.redis_restarted),
    Fault("redis-gone", "Redis down", "deployed", outages.redis_gone),
    Fault("redis-hangs", "Redis connected, but not answering", "deployed", outages.redis_hangs),
    Fault("postgres-restarted", "PostgreSQL crashed and recovered", "deployed", outages.postgres_restarted),
    Fault("postgres-gone", "PostgreSQL down", "deployed", outages.postgres_gone),
    Fault("connections-cut", "all connections to PostgreSQL cut, five times", "deployed", outages.connections_cut),
    Fault("watcher-killed", "watcher killed in a burst, restarted", "deployed", company.watcher_killed),
    Fault("events-overflow", "inotify overflow while the watcher is halted", "deployed", company.events_overflow),
    Fault("share-away", "the inbox unavailable, then back", "deployed", company.share_away),
    Fault("two-watchers", "two watchers on one inbox", "deployed", company.two_watchers),
    Fault("two-schedulers", "two schedulers, and a worker killed", "deployed", company.two_schedulers),
    Fault("database-restored", "database restored from a backup while running", "deployed", company.database_restored),
    Fault("killed-again", "workers killed repeatedly", "deployed", deaths.workers_killed_again_and_again),
    Fault("image-that-kills", "an image that kills its worker", "deployed", deaths.film_that_kills),
    Fault("clock-set", "a machine's clock set by hours, both ways", "deployed", company.clock_set),
    Fault("up-decoder-killed", "decoding child processes killed", "up", deaths.decoder_killed),
    Fault("ledger-locked", "SQLite locked by another process", "up", storage.ledger_locked),
    Fault("up-killed", "everything killed (SIGKILL), restarted", "up", deaths.up_killed),
    Fault("ledger-copied-back", "SQLite file of a backup copied back", "up", storage.ledger_copied_back),
    Fault("disk-full", "disk full under the data folder", "cramped", storage.disk_full, storage.no_mounts),
)  # fmt: skip
