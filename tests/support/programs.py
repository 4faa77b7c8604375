"""Run pneumowatch as its users do: the command, in its own process and environment."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from support.waiting import eventually

COMMAND: Final = [sys.executable, "-m", "pneumowatch"]
Drop = Callable[[Path, int], list[Path]]  # copies so many images into a folder

COMMAND_SECONDS: Final = 90.0  # seconds: TensorFlow takes its time to load on a busy machine


def environment(**settings: object) -> dict[str, str]:
    """Return this process' environment, with these PNEUMOWATCH_ settings and no others."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PNEUMOWATCH_")}
    return kept | {f"PNEUMOWATCH_{name.upper()}": str(value) for name, value in settings.items()}


@dataclass(frozen=True)
class CompletedCommand:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run(
    *arguments: object, cwd: Path, env: Mapping[str, str] | None = None, timeout: float = COMMAND_SECONDS
) -> CompletedCommand:
    words = [*COMMAND, *(argument if isinstance(argument, bytes) else str(argument) for argument in arguments)]
    done = subprocess.run(words, cwd=cwd, env=env or environment(), capture_output=True, timeout=timeout)
    return CompletedCommand(done.returncode, done.stdout.decode(), done.stderr.decode())


@dataclass
class RunningCommand:
    """A command that runs until it is stopped; its output goes to a file."""

    arguments: tuple[object, ...]
    cwd: Path
    log: Path
    env: Mapping[str, str] = field(default_factory=environment)
    command: Sequence[str] = tuple(COMMAND)  # what stands for `pneumowatch`

    def __enter__(self) -> "RunningCommand":
        words = [*self.command, *map(str, self.arguments)]
        with self.log.open("ab") as log:
            # a session of its own: a group to which Ctrl-C can be sent as a terminal does, children and all
            self.process = subprocess.Popen(
                words, cwd=self.cwd, env=self.env, stdout=log, stderr=log, start_new_session=True
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()

    def said(self) -> str:
        return self.log.read_text("utf-8")

    def wait_until(self, what: Callable[[], Any], timeout: float = COMMAND_SECONDS) -> Any:
        """Return the first true answer. Raises AssertionError with the log where none comes or the process ends."""

        def answer() -> Any:
            if found := what():
                return found
            assert self.process.poll() is None, f"it ended with {self.process.returncode}: {self.said()}"
            return None

        return eventually(answer, timeout, every=0.05, message=self.said)

    def wait_until_said(self, words: str) -> None:
        self.wait_until(lambda: words in self.said())

    def interrupt(self) -> int:
        """Send Ctrl-C, as at its terminal."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(COMMAND_SECONDS)

    def terminate(self) -> int:
        self.process.terminate()
        return self.process.wait(COMMAND_SECONDS)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
