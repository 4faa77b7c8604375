"""Messages that a worker holds and cannot use go back: on a real Redis, with workers in processes of their own."""

import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.programs import RunningCommand, environment
from support.services import Server

from pneumowatch.queue import Announcer, make_celery_app
from pneumowatch.settings import Settings

WORKER = (sys.executable, str(Path(__file__).parents[2] / "support" / "unfit_worker.py"))
IMAGES = 20


@pytest.fixture
def announcer(own_redis: Server) -> Iterator[Announcer]:
    given = Settings(broker_url=own_redis.url)
    with make_celery_app(given) as app:
        yield Announcer(app, given)


class Workers(ExitStack):
    def __init__(self, folder: Path, redis: Server) -> None:
        super().__init__()
        self._folder, self._env = folder, environment(broker_url=redis.url, data_dir=folder / "data")

    def start(self, name: str, *words: str) -> RunningCommand:
        log = self._folder / f"{name}.log"
        part = self.enter_context(RunningCommand((self._folder / name, *words), self._folder, log, self._env, WORKER))
        part.wait_until_said("ready")
        return part


@pytest.fixture
def workers(tmp_path: Path, own_redis: Server) -> Iterator[Workers]:
    with Workers(tmp_path, own_redis) as made:
        yield made


def read(part: RunningCommand) -> int:
    return sum(map(int, re.findall(r"^read (\d+)$", part.said(), re.MULTILINE)))


def test_a_worker_that_cannot_read_leaves_all_messages_to_others_until_it_can(
    workers: Workers, announcer: Announcer, tmp_path: Path
) -> None:
    ill, fit = workers.start("ill"), workers.start("fit")
    (tmp_path / "fit").touch()
    # it must have had a scan to find out
    ill.wait_until(lambda: "cannot process scans" in ill.said() or announcer.announce([1]))
    ill.wait_until_said("messages go to others")
    ill.wait_until(lambda: announcer.outstanding() == 0)
    before = read(fit)
    for number in range(IMAGES):
        announcer.announce([number])
    fit.wait_until(lambda: announcer.outstanding() == 0)
    assert (read(fit) - before, read(ill)) == (IMAGES, 0)

    (tmp_path / "ill").touch()
    ill.wait_until_said("this worker processes scans again")
    assert fit.terminate() == 0
    announcer.announce(list(range(IMAGES)))
    ill.wait_until(lambda: announcer.outstanding() == 0)
    assert read(ill) >= IMAGES  # and perhaps by a message that it had kept, and gave back as well
    assert ill.terminate() == 0
    assert "Traceback" not in ill.said()
    assert "Warning" not in ill.said()


def test_what_a_worker_waits_with_at_its_end_goes_back(workers: Workers, announcer: Announcer) -> None:
    """If they were acknowledged, their scans would wait for a lease."""
    part = workers.start("stuck", "stuck")
    announcer.announce(list(range(4 * 32)))
    part.wait_until(lambda: announcer.waiting() == 0)
    held = announcer.outstanding()
    part.wait_until_said("waits")
    assert part.terminate() == 0
    assert announcer.waiting() == held > 0
