"""Measure how long a query waits for a PostgreSQL whose machine vanishes without closing any connection.

    python tests/vanished_machine.py

Starts a PostgreSQL, asks it something from a network namespace of its own, takes the address away that the answer would
come from, and prints after how many seconds the asker gives up. Needs root and iproute2. Ends with 1 where it is more
than a minute; without keepalives it would be two hours.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from socket import create_connection, create_server, socket
from typing import Final

from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError
from support.services import connect, postgres_server
from support.waiting import eventually

from db.session import Database

SPACE, HERE, THERE = "pneumowatch-cut", "pw-here", "pw-there"
ADDRESS: Final = "10.231.7.1"  # of the machine that vanishes, in a network that nobody else is in
OTHER: Final = "10.231.7.2"
ASKED_SECONDS, GIVEN_UP_SECONDS = 60, 60


def main() -> int:
    with postgres_server() as postgres, network():
        url = make_url(postgres.url)
        port = relay(url.host or "", url.port or 0)
        asked = url.set(host=ADDRESS, port=port).render_as_string(hide_password=False)
        words = ["ip", "netns", "exec", SPACE, sys.executable, __file__, asked]
        with subprocess.Popen(words) as asker:
            eventually(lambda: is_asked(postgres.url), ASKED_SECONDS, message="nobody asks it anything")
            ip("addr", "flush", "dev", HERE)
            print("The machine has vanished.", flush=True)
            try:
                return asker.wait(GIVEN_UP_SECONDS)
            except subprocess.TimeoutExpired:
                asker.kill()
                print(f"It still waits after {GIVEN_UP_SECONDS} seconds.")
                return 1


def is_asked(url: str) -> bool:
    """Tell whether the server has received the query and has not answered yet."""
    with connect(url) as server:
        return bool(server.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'").fetchall())


def ask(url: str) -> int:
    database = Database(url)
    with database.engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        print("Connected; waiting for an answer.", flush=True)
        before = time.monotonic()
        with suppress(OperationalError):
            connection.execute(text("SELECT pg_sleep(1000)"))  # the answer must be long in coming
        print(f"Given up {time.monotonic() - before:.0f} seconds after the question.", flush=True)
        connection.invalidate()
    return 0


@contextmanager
def network() -> Iterator[None]:
    """Make the two ends of a virtual cable: one here, the other in a namespace."""
    ip("netns", "add", SPACE)
    try:
        ip("link", "add", HERE, "type", "veth", "peer", "name", THERE, "netns", SPACE)
        ip("addr", "add", f"{ADDRESS}/24", "dev", HERE)
        ip("link", "set", HERE, "up")
        ip("-n", SPACE, "addr", "add", f"{OTHER}/24", "dev", THERE)
        ip("-n", SPACE, "link", "set", THERE, "up")
        yield
    finally:
        ip("netns", "delete", SPACE)  # and the cable with it


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def relay(host: str, port: int) -> int:
    """Forward our end of the cable to the database, which listens on loopback alone; yield the port."""
    server = create_server((ADDRESS, 0))

    def serve() -> None:
        while True:
            asker, _ = server.accept()
            database = create_connection((host, port))
            for pair in ((asker, database), (database, asker)):
                threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return int(server.getsockname()[1])


def pump(source: socket, target: socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)


if __name__ == "__main__":
    sys.exit(ask(sys.argv[1]) if len(sys.argv) > 1 else main())
