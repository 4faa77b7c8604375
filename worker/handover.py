"""Who comes to the post: the champion, or, where it cannot be loaded, one that served here before; and the handover,
when a promoted model is loaded beside the one at work, checked, and put into its place."""

import threading
import time
from collections.abc import Callable
from typing import Final

from db import registry
from db.session import Database
from pneumowatch.errors import DeviceFull, ModelError, PneumowatchError, SettingsError, ShuttingDown
from pneumowatch.logs import get
from worker.serving import Post, Serving

log = get("worker")

LOOK_SECONDS: Final = 1.0  # how often the database is asked who is champion; by one key of an index
FIRST_DELAY: Final = 5.0  # seconds before a model that could not be loaded is tried again; doubled up to the last
LAST_DELAY: Final = 600.0
LONGEST_WAIT: Final = 60.0  # seconds between attempts of a worker that has no model at all, while films wait


def first_model(database: Database, load: Callable[[str | None], Serving], stop: threading.Event | None) -> Serving:
    """The model with which a worker begins: the champion. Where that cannot be loaded here, the newest of those that
    were champion before it, as workers go on with that were running when it was promoted; never one that has not served
    here. What it reads is recorded as its own, and the champion is tried again (`Handover`).

    Where none can be loaded, films wait, and all are tried again with back-off until `stop`; without one, raises
    ModelError or DeviceFull. What no wait cures is raised: SettingsError, and whatever else is wrong with this machine.
    """
    delay = 0.0
    while True:
        try:
            return load(None)
        except (ShuttingDown, SettingsError):
            raise
        except Exception as error:
            former = _former_model(database, load, error)
            if former is not None:
                return former
            if stop is None or not isinstance(error, ModelError | DeviceFull):
                raise
            delay = min(max(2 * delay, FIRST_DELAY), LONGEST_WAIT)
            log.error("no model can be loaded; films wait", error=said_of(error), again_in_seconds=delay)
            if stop.wait(delay):
                raise ShuttingDown("Shutdown was asked for while no model could be loaded.") from error


def _former_model(database: Database, load: Callable[[str | None], Serving], fault: Exception) -> Serving | None:
    served = database.read(registry.champions)
    for version in served[1:]:
        try:
            serving = load(version)
        except ShuttingDown:
            raise
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, an older one may do
            log.error("a former model cannot be used either", model=version, error=said_of(error))
            continue
        log.error(
            "the champion cannot be used; the model that served before it reads films until it can",
            model=served[0],
            at_work=version,
            error=said_of(fault),
        )
        return serving
    return None


def said_of(error: Exception) -> str:
    """An error for the log: the sentence of one of ours, of others the kind, as they may quote paths."""
    return str(error) if isinstance(error, PneumowatchError) else type(error).__name__


class Handover:
    """Looks in a thread of its own, so that a worker with nothing to do has the new model ready for the next film.

    A model that cannot be fetched or loaded, or that does not give its reference outputs, never comes to the post: the
    one at work stays, the log says so, and it is tried again later and later.

    Args:
        load: fetches, loads and checks the champion.
        enlist: registers a model that is at work here and that the database does not know: it was restored from before
            that one came. Nothing that it reads could be recorded.
    """

    def __init__(
        self,
        database: Database,
        post: Post,
        load: Callable[[], Serving],
        enlist: Callable[[str], None] | None = None,
    ) -> None:
        self._database = database
        self._post = post
        self._load = load
        self._enlist = enlist
        self._refused: str | None = None
        self._delay = 0.0
        self._again = 0.0  # by the monotonic clock
        self._enlist_again = 0.0  # likewise
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
        at_work = self._post.version
        champion, known = self._database.read(lambda c: (registry.champion(c), registry.is_known(c, at_work)))
        if not known and self._enlist:
            self._bring_in(self._enlist, at_work)
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
            log.error(
                "the new model cannot be used; the old one stays at work",
                model=champion,
                at_work=self._post.version,
                error=said_of(error),
                again_in_seconds=self._delay,
            )
            return
        before = self._post.version
        self._post.relieve(successor)
        log.info("new model at work", model=successor.version, before=before)

    def _bring_in(self, enlist: Callable[[str], None], version: str) -> None:
        if time.monotonic() < self._enlist_again:
            return
        self._enlist_again = time.monotonic() + FIRST_DELAY
        try:
            enlist(version)
            log.warning("the database did not know the model at work; it was registered anew", model=version)
        except ShuttingDown:
            raise
        except Exception as error:  # noqa: BLE001 - it is tried again, and another model may come to work
            log.error("the database does not know the model at work", model=version, error=said_of(error))
