"""Real installations of pneumowatch: as separate processes, as a department runs it, and as `up`."""

import os
import signal
import sqlite3
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from sqlalchemy import make_url
from support.programs import COMMAND, COMMAND_SECONDS, RunningCommand, environment, run
from support.services import Server, connect
from support.waiting import eventually

from cli.bench.processes import process_tree, resource_usage
from faults.images import Stock

WORKERS: Final = ("work-1", "work-2")
DATABASE: Final = "ledger"
READY: Final = "model ready"
POLL_SECONDS: Final = 0.1
FAULTY_COMMAND: Final = (sys.executable, str(Path(__file__).parents[1] / "support" / "fault_injection.py"))


class Rig(ABC):
    """Named components, each a process. The faults decide which of them run."""

    home: str  # the kind of installation, for the table

    def __init__(self, folder: Path, lease: float, **settings: object) -> None:
        self.folder = folder
        self.lease = lease
        self.inbox = folder / "inbox"
        self.inbox.mkdir()
        self.data = folder / "data"
        self.stock = Stock(folder / "stock")
        self.parts: dict[str, RunningCommand] = {}
        self._settings = {
            "inboxes": f"ward={self.inbox}",
            "data_dir": self.data,
            "lease_seconds": lease,
            "settle_seconds": 0.5,
            "rescan_seconds": 5,
            "decoders": 1,
            "batch_size": 16,  # small, so that both workers get images
            "retrain_at": "never",
            **settings,
        }
        self._starts = 0

    @abstractmethod
    def ask(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Query the ledger's database; `%s` stands for a parameter."""

    def start(
        self,
        name: str,
        command: Sequence[str] = tuple(COMMAND),
        variables: Mapping[str, str] | None = None,
        **settings: object,
    ) -> RunningCommand:
        """Start a component (`work-1` is one that runs `work`), and do not wait for it."""
        self._starts += 1
        env = environment(**{**self._settings, **settings}) | dict(variables or {})
        log = self.folder / f"{self._starts:02}-{name}.log"
        part = RunningCommand((name.partition("-")[0],), self.folder, log, env, command)
        self.parts[name] = part.__enter__()
        return part

    def restart(self, name: str, **how: Any) -> RunningCommand:
        """Start a component again that has ended, as its supervisor would."""
        assert self.parts[name].process.poll() is not None, f"{name} still runs"
        return self.start(name, **how)

    def ready(self, *names: str) -> None:
        """Wait until these workers have loaded their model."""
        for name in names:
            self.parts[name].wait_until_said(READY)

    def wait_until(self, what: Callable[[], Any], timeout: float = COMMAND_SECONDS) -> Any:
        """Return the first true answer. Raises NotInTime with the ends of all logs if none comes."""
        return eventually(what, timeout, POLL_SECONDS, self.said)

    def held_by(self, pid: int) -> int:
        claims = "SELECT count(*) FROM scans WHERE state = 'running' AND claimed_by LIKE %s"
        return self.ask(claims, f"%:{pid}")[0][0]

    def held_by_anyone(self) -> int:
        return self.ask("SELECT count(*) FROM scans WHERE state = 'running'")[0][0]

    def decoders(self, name: str) -> list[int]:
        """Return the process ids of a worker's decoding child processes."""
        children = process_tree(self.parts[name].process.pid)[1:]
        return [pid for pid in children if b"spawn_main" in _command_line(pid)]

    def cpu_seconds(self) -> dict[int, tuple[str, float]]:
        """Return {process id: (component, processor seconds so far)} of running components, their children included."""
        alive = {name: part.process.pid for name, part in self.parts.items() if part.process.poll() is None}
        return {pid: (name, resource_usage(pid).cpu_seconds) for name, pid in alive.items()}

    def crashed(self) -> list[str]:
        """Return the components that ended unexpectedly."""
        return [name for name, part in self.parts.items() if part.process.poll() is not None]

    def said(self) -> str:
        tails = (f"--- {log.name}\n{log.read_text('utf-8', 'replace')[-2000:]}" for log in self._logs())
        return "\n".join(tails)

    def close(self) -> None:
        for part in self.parts.values():
            if part.process.poll() is None:
                part.process.send_signal(signal.SIGCONT)
            part.__exit__()

    def _logs(self) -> list[Path]:
        return sorted(self.folder.glob("*.log"))


class Deployed(Rig):
    """`watch`, two `work`, and `schedule`, on a Redis and a PostgreSQL of their own."""

    home = "deployed"

    def __init__(self, folder: Path, lease: float, redis: Server, postgres: Server, **settings: object) -> None:
        self.redis = redis
        self.postgres = postgres
        self.database = make_url(postgres.url).set(database=DATABASE).render_as_string(hide_password=False)
        super().__init__(folder, lease, database_url=self.database, broker_url=redis.url, **settings)
        with connect(postgres.url) as server:
            server.execute(f"CREATE DATABASE {DATABASE}")
        upgraded = run("db", "upgrade", cwd=folder, env=environment(**self._settings))
        assert upgraded.code == 0, upgraded.err

    def up(self) -> None:
        """Start all components, and wait until the workers are ready."""
        for name in ("watch", *WORKERS, "schedule"):
            self.start(name)
        self.ready(*WORKERS)

    def ask(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        with connect(self.database) as connection:
            return connection.execute(sql, parameters).fetchall()

    def program(self, name: str) -> Path:
        """Return the path of one of PostgreSQL's own programs."""
        return Path(self.postgres.command[0]).with_name(name)


class Embedded(Rig):
    """`up`: one process, on SQLite and its own queue."""

    home = "up"

    def __init__(self, folder: Path, lease: float, **settings: object) -> None:
        super().__init__(folder, lease, **settings)

    def up(
        self,
        command: Sequence[str] = tuple(COMMAND),
        variables: Mapping[str, str] | None = None,
        **settings: object,
    ) -> RunningCommand:
        """Start it, and wait until it is ready."""
        part = self.start("up", command, variables, **settings)
        self.ready("up")
        return part

    @property
    def ledger(self) -> Path:
        return self.data / "pneumowatch.db"

    def ask(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.ledger, timeout=COMMAND_SECONDS)) as connection:
            return connection.execute(sql.replace("%s", "?"), parameters).fetchall()


def kill_quietly(pid: int) -> bool:
    """Kill a process (SIGKILL). Return False if it is gone already."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
