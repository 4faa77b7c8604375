"""Load the champion at start, or a former champion where it cannot be loaded; reload promoted models without a restart.

A promoted model is loaded beside the one in use, checked, and then swapped in.
"""

import threading
import time
from collections.abc import Callable
from typing import Final

from db.registry import model_registry
from db.session import Database
from pneumowatch.errors import DeviceOutOfMemory, ModelError, PneumowatchError, SettingsError, ShuttingDown
from pneumowatch.logs import get_logger
from worker.inference.serving import ModelSlot, ServedModel

log = get_logger("worker")

CHAMPION_CHECK_SECONDS: Final = 1.0  # how often the database is asked for the champion; one index lookup
FIRST_RELOAD_DELAY: Final = (
    5.0  # seconds before a model that could not be loaded is tried again; doubled up to the last
)
LAST_RELOAD_DELAY: Final = 600.0
LONGEST_MODEL_WAIT: Final = 60.0  # seconds between attempts of a worker that has no model at all, while scans wait


def load_initial_model(
    database: Database, load: Callable[[str | None], ServedModel], stop: threading.Event | None
) -> ServedModel:
    """Load the model with which a worker starts: the champion, or the newest former champion that can be loaded.

    Workers that were running at the promotion also go on with the former champion. A model that was never champion is
    not used. Predictions are recorded under the model that made them, and the champion is tried again
    (`ModelReloader`).

    Where no model can be loaded, scans wait, and all models are retried with back-off until `stop`. Without `stop`,
    raises ModelError or DeviceOutOfMemory. Errors that waiting does not cure are raised at once: SettingsError, and
    other faults of this machine.
    """
    delay = 0.0
    while True:
        try:
            return load(None)
        except (ShuttingDown, SettingsError):
            raise
        except Exception as error:
            former = _load_former_champion(database, load, error)
            if former is not None:
                return former
            if stop is None or not isinstance(error, ModelError | DeviceOutOfMemory):
                raise
            delay = min(max(2 * delay, FIRST_RELOAD_DELAY), LONGEST_MODEL_WAIT)
            log.error("no model can be loaded; scans wait", error=describe_error(error), again_in_seconds=delay)
            if stop.wait(delay):
                raise ShuttingDown("Shutdown was requested while no model could be loaded.") from error


def _load_former_champion(
    database: Database, load: Callable[[str | None], ServedModel], fault: Exception
) -> ServedModel | None:
    champion_versions = database.read(model_registry.champion_history)
    for version in champion_versions[1:]:
        try:
            served = load(version)
        except ShuttingDown:
            raise
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, an older one may work
            log.error("a former champion cannot be loaded either", model=version, error=describe_error(error))
            continue
        log.error(
            "the champion cannot be loaded; its predecessor classifies scans until it can",
            model=champion_versions[0],
            current=version,
            error=describe_error(fault),
        )
        return served
    return None


def describe_error(error: Exception) -> str:
    """Return an error for the log: the sentence of our own errors, only the type of others, which may quote paths."""
    return str(error) if isinstance(error, PneumowatchError) else type(error).__name__


class ModelReloader:
    """Loads each new champion in a thread of its own, so that an idle worker has it ready for the next scan.

    A model that cannot be fetched or loaded, or that does not reproduce its reference outputs, is never used: the
    current one stays, the log says so, and the new one is retried with growing delays.

    Args:
        load: fetches, loads and checks the champion.
        register: registers the model in use where the database does not know it, because an older backup was restored.
            Its predictions could not be recorded otherwise.
    """

    def __init__(
        self,
        database: Database,
        slot: ModelSlot,
        load: Callable[[], ServedModel],
        register: Callable[[str], None] | None = None,
    ) -> None:
        self._database = database
        self._slot = slot
        self._load = load
        self._register = register
        self._failed_version: str | None = None
        self._delay = 0.0
        self._retry_at = 0.0  # monotonic seconds
        self._register_at = 0.0  # monotonic seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="model-reloader", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stop.wait(CHAMPION_CHECK_SECONDS):
                self._check()
        except ShuttingDown:
            pass

    def _check(self) -> None:
        current = self._slot.version
        champion, known = self._database.read(
            lambda c: (model_registry.champion_version(c), model_registry.is_registered(c, current))
        )
        if not known and self._register:
            self._register_current(self._register, current)
        if champion in (None, self._slot.version):
            self._failed_version, self._delay = None, 0.0
            return
        if champion == self._failed_version and time.monotonic() < self._retry_at:
            return
        if champion != self._failed_version:
            self._failed_version, self._delay = champion, 0.0
        try:
            successor = self._load()
        except ShuttingDown:
            raise
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the current model must go on
            self._delay = min(max(2 * self._delay, FIRST_RELOAD_DELAY), LAST_RELOAD_DELAY)
            self._retry_at = time.monotonic() + self._delay
            log.error(
                "the new model cannot be loaded; the current one stays in use",
                model=champion,
                current=self._slot.version,
                error=describe_error(error),
                again_in_seconds=self._delay,
            )
            return
        before = self._slot.version
        self._slot.swap(successor)
        log.info("new model in use", model=successor.version, before=before)

    def _register_current(self, register: Callable[[str], None], version: str) -> None:
        if time.monotonic() < self._register_at:
            return
        self._register_at = time.monotonic() + FIRST_RELOAD_DELAY
        try:
            register(version)
            log.warning("the database did not know the model in use; it was registered again", model=version)
        except ShuttingDown:
            raise
        except Exception as error:  # noqa: BLE001 - it is tried again, and another model may replace this one
            log.error("the database does not know the model in use", model=version, error=describe_error(error))
