"""The handover: a promoted model is loaded beside the one at work, checked, and put into its place."""

import threading
import time
from collections.abc import Callable
from typing import Final

from db import registry
from db.session import Database
from pneumowatch.errors import PneumowatchError, ShuttingDown
from pneumowatch.logs import get
from worker.serving import Post, Serving

log = get("worker")

LOOK_SECONDS: Final = 1.0  # how often the database is asked who is champion; by one key of an index
FIRST_DELAY: Final = 5.0  # seconds before a model that could not be loaded is tried again; doubled up to the last
LAST_DELAY: Final = 600.0


class Handover:
    """Looks in a thread of its own, so that a worker with nothing to do has the new model ready for the next film.

    A model that cannot be fetched or loaded, or that does not give its reference outputs, never comes to the post: the
    one at work stays, the log says so, and it is tried again later and later.

    Args:
        load: fetches, loads and checks the champion.
    """

    def __init__(self, database: Database, post: Post, load: Callable[[], Serving]) -> None:
        self._database = database
        self._post = post
        self._load = load
        self._refused: str | None = None
        self._delay = 0.0
        self._again = 0.0  # by the monotonic clock
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="handover", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._ended.wait(LOOK_SECONDS):
                self._look()
        except ShuttingDown:
            pass

    def _look(self) -> None:
        champion = self._database.read(registry.champion)
        if champion in (None, self._post.version):
            self._refused, self._delay = None, 0.0
            return
        if champion == self._refused and time.monotonic() < self._again:
            return
        if champion != self._refused:
            self._refused, self._delay = champion, 0.0
        try:
            successor = self._load()
        except ShuttingDown:
            raise
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the model at work must go on
            self._delay = min(max(2 * self._delay, FIRST_DELAY), LAST_DELAY)
            self._again = time.monotonic() + self._delay
            said = str(error) if isinstance(error, PneumowatchError) else type(error).__name__
            log.error(
                "the new model cannot be used; the old one stays at work",
                model=champion,
                at_work=self._post.version,
                error=said,
                again_in_seconds=self._delay,
            )
            return
        before = self._post.version
        self._post.relieve(successor)
        log.info("new model at work", model=successor.version, before=before)
