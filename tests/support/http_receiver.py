"""Run a web server as a receiver, in a process of its own, that accepts, fails or hangs as the test says.

    python tests/support/http_receiver.py PORT FOLDER

FOLDER/mode says what it does; each request leaves a line in FOLDER/log before it is answered.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from support.services import HOST, free_port
from support.waiting import eventually

ANSWERS: Final = {"take": 204, "fail": 500, "gone": 410, "unknown": 404, "busy": 503, "moved": 302}
HANG_SECONDS: Final = 3600.0  # longer than anybody waits
TESTS: Final = Path(__file__).parents[1]
READY: Final = "listening"


class Receiver:
    """Starts the receiver, sets what it does, and reads what it was sent."""

    def __init__(self, folder: Path, mode: str = "take") -> None:
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[str] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.does(mode)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}/hook"

    def does(self, mode: str) -> None:
        """Set what it does from the next request on; one that hangs is left without an answer."""
        new = self.folder / "mode.new"
        new.write_text(mode, "utf-8")
        new.replace(self.folder / "mode")

    def start(self) -> None:
        command = [sys.executable, "-m", "support.http_receiver", str(self.port), str(self.folder)]
        self.process = subprocess.Popen(command, cwd=TESTS, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"{READY}\n"

    def stop(self) -> None:
        if self.process is not None and self.process.stdout is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
        self.process = None

    def requests(self, mode: str | None = None) -> list[dict[str, Any]]:
        """Return all requests, or those of one mode: each with mode, path, headers (lower case) and body."""
        log = self.folder / "log"
        lines = log.read_text("utf-8").splitlines() if log.exists() else []
        found = [json.loads(line) for line in lines]
        return [one for one in found if mode in (None, one["mode"])]


@contextmanager
def receiving(folder: Path, mode: str = "take") -> Iterator[Receiver]:
    receiver = Receiver(folder, mode)
    receiver.start()
    try:
        yield receiver
    finally:
        receiver.stop()


class Handler(BaseHTTPRequestHandler):
    folder: Path

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        mode = self._mode()
        said = {"mode": mode, "path": self.path, "headers": {k.lower(): v for k, v in self.headers.items()}}
        with (self.folder / "log").open("a", encoding="utf-8") as log:
            log.write(json.dumps({**said, "body": body.decode("latin-1")}) + "\n")
        if mode == "hang":
            eventually(lambda: self._mode() != "hang", HANG_SECONDS)
            self.close_connection = True
        elif mode == "drop":
            self.close_connection = True
        elif mode == "drip":
            self._drip()
        else:
            self._answer(mode)

    def _mode(self) -> str:
        return (self.folder / "mode").read_text("utf-8")

    def _answer(self, mode: str) -> None:
        self.send_response(ANSWERS[mode])
        if mode == "busy":
            self.send_header("retry-after", "7")
        if mode == "moved":
            self.send_header("location", "/elsewhere")
        self.send_header("content-length", "0")
        self.end_headers()

    def _drip(self) -> None:
        """Send the answer byte by byte, without end."""
        self.wfile.write(b"HTTP/1.1 204 No Content\r\n")
        for number in range(10_000):
            if self._mode() != "drip":
                break
            try:
                self.wfile.write(f"x-{number}: y\r\n".encode())
            except OSError:
                break
            time.sleep(0.1)  # so slow that it never ends, and never falls silent
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


def main() -> None:
    port, folder = sys.argv[1:]
    Handler.folder = Path(folder)
    server = ThreadingHTTPServer((HOST, int(port)), Handler)
    print(READY, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
