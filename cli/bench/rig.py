"""The test rig: pneumowatch's components as separate processes, with an inbox of their own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cli.bench.processes import ResourceUsage, resource_usage
from db.session import Database
from pneumowatch.errors import PneumowatchError
from pneumowatch.settings import ENV_PREFIX

INBOX_NAME: Final = "inbox"  # its name in the database, the one that `up --inbox` gives
READY_LINE: Final = "model ready"  # the worker's log line
STARTUP_SECONDS: Final = 180.0
STOP_SECONDS: Final = 30.0
LOG_POLL_SECONDS: Final = 0.05
IDLE_WINDOW_SECONDS: Final = 1.0  # how long a system must be idle
IDLE_SHARE: Final = 0.08  # of one core, which polling and sweeping take
# The rig sets all settings of a measured component, except these, which describe the machine.
INHERITED_SETTINGS: Final = frozenset(f"{ENV_PREFIX}{name}" for name in ("BATCH_SIZE", "DECODERS"))

Process = subprocess.Popen[bytes]


@dataclass(frozen=True)
class Rig:
    """A running system. `pids`: name -> process id. It processes the images that are moved into `inbox`."""

    inbox: Path
    database: Database
    pids: Mapping[str, int]

    def usage(self) -> dict[str, ResourceUsage]:
        """Return the usage of each process, by name."""
        return {name: resource_usage(pid) for name, pid in self.pids.items()}

    def wait_until_idle(self, limit: float = STARTUP_SECONDS) -> None:
        """Wait until its processes are idle, at most `limit` seconds: some machines are never idle."""
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            before = sum(one.cpu_seconds for one in self.usage().values())
            time.sleep(IDLE_WINDOW_SECONDS)
            if sum(one.cpu_seconds for one in self.usage().values()) - before <= IDLE_SHARE * IDLE_WINDOW_SECONDS:
                return


@contextmanager
def embedded(folder: Path, models: Path, **settings: object) -> Iterator[Rig]:
    """Run `pneumowatch up` with SQLite in `folder`; idle on entry. `settings`: as for `process_environment`."""
    inbox, data = folder / "inbox", folder / "data"
    inbox.mkdir(parents=True, exist_ok=True)
    command = ["up", "--inbox", str(inbox), "--data", str(data)]
    with pneumowatch_process("up", command, folder, process_environment(MODEL_DIR=models, **settings)) as up:
        wait_for_log_line(READY_LINE, "up", folder, up)
        rig = Rig(inbox, Database(f"sqlite:///{data / 'pneumowatch.db'}"), {"up": up.pid})
        with closing(rig.database):
            rig.wait_until_idle()
            yield rig


@contextmanager
def deployed(folder: Path, models: Path, database_url: str, broker_url: str, workers: int = 1) -> Iterator[Rig]:
    """Run one `watch` and `workers` times `work` on a migrated database and an otherwise unused Redis database."""
    inbox = folder / "inbox"
    inbox.mkdir(parents=True, exist_ok=True)
    variables = process_environment(
        MODEL_DIR=models,
        DATA_DIR=folder / "data",
        DATABASE_URL=database_url,
        BROKER_URL=broker_url,
        INBOXES=f"{INBOX_NAME}={inbox}",
    )
    names = ["work"] if workers == 1 else [f"work {number + 1}" for number in range(workers)]
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(pneumowatch_process(name, ["work"], folder, variables)) for name in names
        }
        processes["watch"] = stack.enter_context(pneumowatch_process("watch", ["watch"], folder, variables))
        for name in names:
            wait_for_log_line(READY_LINE, name, folder, processes[name])
        rig = Rig(inbox, Database(database_url), {name: one.pid for name, one in processes.items()})
        with closing(rig.database):
            rig.wait_until_idle()
            yield rig


def process_environment(**settings: object) -> dict[str, str]:
    """Return the environment with these settings as PNEUMOWATCH_<NAME>, and without those of this installation."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(ENV_PREFIX) or name in INHERITED_SETTINGS
    }
    return kept | {f"{ENV_PREFIX}{name}": str(value) for name, value in settings.items()}


def pneumowatch_process(
    name: str, arguments: list[str], folder: Path, variables: dict[str, str]
) -> AbstractContextManager[Process]:
    """Run a `pneumowatch` process, as `process` does."""
    return process(name, [sys.executable, "-m", "pneumowatch", *arguments], folder, variables)


@contextmanager
def process(name: str, command: list[str], folder: Path, variables: dict[str, str]) -> Iterator[Process]:
    """Run a process with its log in `folder`. On exit it gets SIGTERM, and is killed where it does not end."""
    with log_path(name, folder).open("wb") as log:
        started = subprocess.Popen(command, env=variables, cwd=folder, stdout=log, stderr=log)
    try:
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        try:
            started.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def log_path(name: str, folder: Path) -> Path:
    return folder / f"{name.replace(' ', '-')}.log"


def wait_for_log_line(line: str, name: str, folder: Path, process: Process) -> None:
    """Wait until a line is in a process's log. Raises PneumowatchError, with the end of the log, where it never is."""
    deadline = time.monotonic() + STARTUP_SECONDS
    log = log_path(name, folder)
    while line.encode() not in log.read_bytes():
        if process.poll() is not None or time.monotonic() > deadline:
            raise PneumowatchError(f"`{name}` did not start. The end of its log:\n{log.read_text('utf-8')[-2000:]}")
        time.sleep(LOG_POLL_SECONDS)
