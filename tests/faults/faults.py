"""The list of faults, in the order in which they run: what each is called, and on which installation."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from support.services import postgres_server, redis_server

from faults import killed_processes, outages, storage, watcher_and_scheduler
from faults.rig import FAULTY_COMMAND, Deployed, Embedded, Rig
from faults.scenario import FULL, Pace, Scenario


@dataclass(frozen=True)
class Fault:
    """A fault: `name` selects it, `title` is for the table; `home`: deployed, up, or cramped (`up`, small disk)."""

    name: str
    title: str
    home: str
    act: Callable[[Scenario[Any]], None]
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
            embedded.up(FAULTY_COMMAND, {} if pace is FULL else {"FAULT_INJECTION_BUSY_SECONDS": "1"})
            yield embedded
    else:
        with closing(storage.Cramped(folder, pace.lease, keep_images="all")) as cramped:
            cramped.up()
            yield cramped


FAULTS: Final = (
    Fault("worker-killed", "worker killed (SIGKILL) in mid-batch", "deployed", killed_processes.worker_killed),
    Fault("worker-drained", "worker stopped (SIGTERM) under load", "deployed", killed_processes.worker_drained),
    Fault("decoder-killed", "decoding child processes killed", "deployed", killed_processes.decoder_killed),
    Fault("redis-flushed", "Redis flushed", "deployed", outages.redis_flushed),
    Fault("redis-restarted", "Redis killed and restarted", "deployed", outages.redis_restarted),
    Fault("redis-gone", "Redis down", "deployed", outages.redis_gone),
    Fault("redis-hangs", "Redis connected, but not answering", "deployed", outages.redis_hangs),
    Fault("postgres-restarted", "PostgreSQL crashed and recovered", "deployed", outages.postgres_restarted),
    Fault("postgres-gone", "PostgreSQL down", "deployed", outages.postgres_gone),
    Fault("connections-cut", "all connections to PostgreSQL cut, five times", "deployed", outages.connections_cut),
    Fault("watcher-killed", "watcher killed in a burst, restarted", "deployed", watcher_and_scheduler.watcher_killed),
    Fault("events-overflow", "inotify overflow while the watcher is halted", "deployed",
          watcher_and_scheduler.events_overflow),
    Fault("share-away", "the inbox unavailable, then back", "deployed", watcher_and_scheduler.share_away),
    Fault("two-watchers", "two watchers on one inbox", "deployed", watcher_and_scheduler.two_watchers),
    Fault("two-schedulers", "two schedulers, and a worker killed", "deployed", watcher_and_scheduler.two_schedulers),
    Fault("database-restored", "database restored from a backup while running", "deployed",
          watcher_and_scheduler.database_restored),
    Fault("killed-again", "workers killed repeatedly", "deployed", killed_processes.workers_killed_again_and_again),
    Fault("image-that-kills", "an image that kills its worker", "deployed", killed_processes.image_that_kills),
    Fault("clock-set", "a machine's clock set by hours, both ways", "deployed", watcher_and_scheduler.clock_set),
    Fault("up-decoder-killed", "decoding child processes killed", "up", killed_processes.decoder_killed),
    Fault("ledger-locked", "SQLite locked by another process", "up", storage.ledger_locked),
    Fault("up-killed", "everything killed (SIGKILL), restarted", "up", killed_processes.up_killed),
    Fault("ledger-copied-back", "SQLite file of a backup copied back", "up", storage.ledger_copied_back),
    Fault("disk-full", "disk full under the data folder", "cramped", storage.disk_full, storage.no_mounts),
)  # fmt: skip
