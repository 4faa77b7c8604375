"""What Prometheus is told: every metric by name, and the door by which a part's are fetched.

Those of a process are counted here as it works. Those of the ledger are the same for all processes, so only two kinds
of parts tell them, the desk and `schedule` (`db.census`): take the maximum over instances, never the sum. Labels name
sources, states and machines, never a film or a patient.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from pneumowatch import __version__
from pneumowatch.errors import SettingsError
from pneumowatch.settings import Settings

REGISTRY: Final = CollectorRegistry()  # of this process; what belongs to one part of it is given to `serving`
for of_python in (ProcessCollector, PlatformCollector, GCCollector):
    of_python(registry=REGISTRY)

# Counted by workers

READ: Final = Counter(
    "pneumowatch_read_films",
    "Films read by this worker, by source and outcome: flagged, not_flagged, rejected or later (put off).",
    ["source", "outcome"],
    registry=REGISTRY,
)
BATCH: Final = Histogram(
    "pneumowatch_batch_films",
    "Films of one predict.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
    registry=REGISTRY,
)
STAGE: Final = Histogram(
    "pneumowatch_stage_seconds",
    "Seconds that one claim of films spent in a stage: claim, fetch (read and decode), predict (with the wait for the "
    "model), write.",
    ["stage"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
    registry=REGISTRY,
)


class Gauge(NamedTuple):
    """A metric whose values are looked up when they are asked for."""

    name: str
    help: str
    labels: tuple[str, ...] = ()

    def family(self, values: Mapping[Any, float]) -> Family:
        """With {labels: value}, labels being a tuple."""
        family = GaugeMetricFamily(self.name, self.help, labels=self.labels)
        for labels, value in values.items():
            family.add_metric(labels, value)
        return family


# Of any process

BUILD: Final = Gauge("pneumowatch_build_info", "1, with the version of pneumowatch that runs here.", ("version",))
MODEL: Final = Gauge("pneumowatch_model_info", "1, with the model that this worker reads with.", ("version",))
DONE: Final = Gauge("pneumowatch_done", "What a part of this process got done since it started.", ("part", "what"))

# Of the ledger

DATABASE_UP: Final = Gauge("pneumowatch_database_up", "1 where the database answers; else the ledger's are not told.")
FILMS: Final = Gauge("pneumowatch_films", "Scans in each state, by source.", ("source", "state"))
WAITING: Final = Gauge("pneumowatch_waiting_films", "Scans without a final state, by source.", ("source",))
OLDEST: Final = Gauge(
    "pneumowatch_oldest_waiting_seconds", "How long the oldest scan without a final state has waited.", ("source",)
)
UNSCORED: Final = Gauge(
    "pneumowatch_unscored_films", "Scans that nobody has read: rejected, failed, or waiting beyond the cap.", ("why",)
)
FLAGGED: Final = Gauge(
    "pneumowatch_flagged_ratio", "Share of flagged films among the last ones that were read.", ("source",)
)
DRIFT: Final = Gauge(
    "pneumowatch_drift_psi",
    "Population stability index of the last films read against the champion's reference, of: probability, "
    "strangeness or brightness. Not there: not measurable (too few films, or a model without a reference).",
    ("source", "of"),
)
SILENT: Final = Gauge("pneumowatch_source_silent", "1 where a source is silent for longer than usual.", ("source",))
SILENCE: Final = Gauge("pneumowatch_source_silence_seconds", "How long ago a source's last film came.", ("source",))
CHAMPION: Final = Gauge("pneumowatch_champion_info", "1, with the model that the ledger calls champion.", ("version",))
HEARTBEAT: Final = Gauge(
    "pneumowatch_heartbeat_age_seconds", "How long ago a part was last heard of; the longest.", ("part", "machine")
)
PARTS: Final = Gauge(
    "pneumowatch_parts", "Parts of the deployment by how they are: well, stalled or silent.", ("part", "verdict")
)
TRAINING: Final = Gauge(
    "pneumowatch_last_training", "1 for what the last training came to, 0 for all that it did not.", ("outcome",)
)
TRAINED_AT: Final = Gauge("pneumowatch_last_training_timestamp_seconds", "When the last training ended (Unix time).")
OUTBOX: Final = Gauge("pneumowatch_outbox_messages", "Messages that wait, or were given up.", ("way", "state"))
OUTBOX_OLDEST: Final = Gauge(
    "pneumowatch_outbox_oldest_waiting_seconds", "How long the oldest message that waits has waited.", ("way",)
)


@contextmanager
def timed(stage: str) -> Iterator[None]:
    """One claim's time in a stage; not counted where it ends in an error."""
    started = time.monotonic()
    yield
    STAGE.labels(stage).observe(time.monotonic() - started)


class Build(Collector):
    def collect(self) -> Iterator[Family]:
        yield BUILD.family({(__version__,): 1})


REGISTRY.register(Build())


@contextmanager
def telling(*collectors: Collector) -> Iterator[None]:
    """These belong to the process' metrics until this is left."""
    for collector in collectors:
        REGISTRY.register(collector)
    try:
        yield
    finally:
        for collector in collectors:
            REGISTRY.unregister(collector)


@contextmanager
def serving(settings: Settings, *collectors: Collector) -> Iterator[None]:
    """As `telling`, and at PNEUMOWATCH_METRICS_PORT, where it is set, in threads of their own.

    Raises SettingsError where the port cannot be had.
    """
    with telling(*collectors):
        if not settings.metrics_port:
            yield
            return
        try:
            server, thread = start_http_server(settings.metrics_port, settings.metrics_host, REGISTRY)
        except OSError as error:
            raise SettingsError(
                f"Metrics cannot be served on {settings.metrics_host}, port {settings.metrics_port}: "
                f"{error.strerror}. Each part of a machine needs a PNEUMOWATCH_METRICS_PORT of its own."
            ) from None
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
