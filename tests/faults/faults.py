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
    """`name` selects it, `title` is what the table calls it; `home`: deployed, up, or cramped (`up`, little room)."""

    name: str
    title: str
    home: str
    act: Callable[[Stage[Any]], None]
    missing: Callable[[], str] = lambda: ""  # what this machine lacks for it


@contextmanager
def installation(home: str, folder: Path, pace: Pace) -> Iterator[Rig]:
    """A running one, for all faults of its kind. Raises ServiceMissing."""
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
            # an outage of seconds outlasts SQLite's patience only where that is shortened
            embedded.up(SABOTAGED, {} if pace is FULL else {"SABOTAGE_BUSY_SECONDS": "1"})
            yield embedded
    else:
        with closing(storage.Cramped(folder, pace.lease, keep_images="all")) as cramped:
            cramped.up()
            yield cramped


FAULTS: Final = (
    Fault("worker-killed", "worker killed (SIGKILL) in mid-batch", "deployed", deaths.worker_killed),
    Fault("worker-drained", "worker asked to end (SIGTERM) under load", "deployed", deaths.worker_drained),
    Fault("decoder-killed", "decoding children killed", "deployed", deaths.decoder_killed),
    Fault("redis-flushed", "Redis flushed", "deployed", outages.redis_flushed),
    Fault("redis-restarted", "Redis killed and started anew", "deployed", outages.redis_restarted),
    Fault("redis-gone", "Redis gone", "deployed", outages.redis_gone),
    Fault("redis-hangs", "Redis connected, but answers nothing", "deployed", outages.redis_hangs),
    Fault("postgres-restarted", "PostgreSQL crashed and recovered", "deployed", outages.postgres_restarted),
    Fault("postgres-gone", "PostgreSQL gone", "deployed", outages.postgres_gone),
    Fault("connections-cut", "all connections to PostgreSQL cut, five times", "deployed", outages.connections_cut),
    Fault("watcher-killed", "watcher killed in a burst, started again", "deployed", company.watcher_killed),
    Fault("events-overflow", "inotify overflow while the watcher is held up", "deployed", company.events_overflow),
    Fault("share-away", "the inbox gone, and back", "deployed", company.share_away),
    Fault("two-watchers", "two watchers on one inbox", "deployed", company.two_watchers),
    Fault("two-schedulers", "two schedulers, and a worker killed", "deployed", company.two_schedulers),
    Fault("database-restored", "database restored from a backup under way", "deployed", company.database_restored),
    Fault("killed-again", "workers killed again and again", "deployed", deaths.workers_killed_again_and_again),
    Fault("film-that-kills", "a film that brings down whoever reads it", "deployed", deaths.film_that_kills),
    Fault("clock-set", "a machine's clock set by hours, both ways", "deployed", company.clock_set),
    Fault("up-decoder-killed", "decoding children killed", "up", deaths.decoder_killed),
    Fault("ledger-locked", "SQLite locked by another process", "up", storage.ledger_locked),
    Fault("up-killed", "everything killed (SIGKILL), started again", "up", deaths.up_killed),
    Fault("ledger-copied-back", "SQLite file of a backup copied back", "up", storage.ledger_copied_back),
    Fault("disk-full", "disk full under the data folder", "cramped", storage.disk_full, storage.no_mounts),
)  # fmt: skip
