"""What Prometheus is told: every metric by name, and the door by which a part's are fetched.

Those of a process are counted here as it works. Those of the ledger are the same for all processes, so only two kinds
of parts tell them, the desk and `schedule` (`db.health.ledger_metrics`): take the maximum over instances, never the sum. Labels name
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

REGISTRY: Final = CollectorRegistry()  # of this process; what belongs to one part of it is given to `serving_metrics`
for python_collector in (ProcessCollector, PlatformCollector, GCCollector):
    python_collector(registry=REGISTRY)

# Counted by workers

IMAGES_PROCESSED: Final = Counter(
    "pneumowatch_images_processed",
    "Films read by this worker, by source and outcome: flagged, not_flagged, rejected or deferred.",
    ["source", "outcome"],
    registry=REGISTRY,
)
BATCH_IMAGES: Final = Histogram(
    "pneumowatch_batch_images",
    "Films of one predict.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
    registry=REGISTRY,
)
STAGE_SECONDS: Final = Histogram(
    "pneumowatch_stage_seconds",
    "Seconds that one claim of films spent in a stage: claim, fetch (read and decode), predict (with the wait for the "
    "model), write.",
    ["stage"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
    registry=REGISTRY,
)


class GaugeDefinition(NamedTuple):
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

BUILD_INFO: Final = GaugeDefinition(
    "pneumowatch_build_info", "1, with the version of pneumowatch that runs here.", ("version",)
)
MODEL_INFO: Final = GaugeDefinition(
    "pneumowatch_model_info", "1, with the model that this worker reads with.", ("version",)
)
WORK_DONE: Final = GaugeDefinition(
    "pneumowatch_work_done", "What a part of this process got done since it started.", ("component", "kind")
)

# Of the ledger

DATABASE_UP: Final = GaugeDefinition(
    "pneumowatch_database_up", "1 where the database answers; else the ledger's are not told."
)
SCANS_BY_STATE: Final = GaugeDefinition("pneumowatch_scans", "Scans in each state, by source.", ("source", "state"))
WAITING_SCANS: Final = GaugeDefinition(
    "pneumowatch_waiting_scans", "Scans without a final state, by source.", ("source",)
)
OLDEST_WAITING: Final = GaugeDefinition(
    "pneumowatch_oldest_waiting_seconds", "How long the oldest scan without a final state has waited.", ("source",)
)
UNSCORED_SCANS: Final = GaugeDefinition(
    "pneumowatch_unscored_scans",
    "Scans that nobody has read: rejected, failed, or waiting beyond the cap.",
    ("reason",),
)
FLAGGED_RATIO: Final = GaugeDefinition(
    "pneumowatch_flagged_ratio", "Share of flagged films among the last ones that were read.", ("source",)
)
DRIFT_PSI: Final = GaugeDefinition(
    "pneumowatch_drift_psi",
    "Population stability index of the last films read against the champion's reference, of: probability, "
    "gate_score or brightness. Not there: not measurable (too few films, or a model without a reference).",
    ("source", "feature"),
)
SOURCE_SILENT: Final = GaugeDefinition(
    "pneumowatch_source_silent", "1 where a source is silent for longer than usual.", ("source",)
)
SOURCE_SILENCE: Final = GaugeDefinition(
    "pneumowatch_source_silence_seconds", "How long ago a source's last film came.", ("source",)
)
CHAMPION_INFO: Final = GaugeDefinition(
    "pneumowatch_champion_info", "1, with the model that the ledger calls champion.", ("version",)
)
HEARTBEAT_AGE: Final = GaugeDefinition(
    "pneumowatch_heartbeat_age_seconds", "How long ago a part was last heard of; the longest.", ("component", "machine")
)
COMPONENTS: Final = GaugeDefinition(
    "pneumowatch_components",
    "Parts of the deployment by how they are: well, stalled or silent.",
    ("component", "state"),
)
LAST_TRAINING: Final = GaugeDefinition(
    "pneumowatch_last_training", "1 for what the last training came to, 0 for all that it did not.", ("outcome",)
)
LAST_TRAINING_TIME: Final = GaugeDefinition(
    "pneumowatch_last_training_timestamp_seconds", "When the last training ended (Unix time)."
)
OUTBOX_MESSAGES: Final = GaugeDefinition(
    "pneumowatch_outbox_messages", "Messages that wait, or were given up.", ("channel", "state")
)
OUTBOX_OLDEST: Final = GaugeDefinition(
    "pneumowatch_outbox_oldest_waiting_seconds", "How long the oldest message that waits has waited.", ("channel",)
)


@contextmanager
def timed_stage(stage: str) -> Iterator[None]:
    """One claim's time in a stage; not counted where it ends in an error."""
    started = time.monotonic()
    yield
    STAGE_SECONDS.labels(stage).observe(time.monotonic() - started)


class BuildInfoCollector(Collector):
    def collect(self) -> Iterator[Family]:
        yield BUILD_INFO.family({(__version__,): 1})


REGISTRY.register(BuildInfoCollector())


@contextmanager
def registered_collectors(*collectors: Collector) -> Iterator[None]:
    """These belong to the process' metrics until this is left."""
    for collector in collectors:
        REGISTRY.register(collector)
    try:
        yield
    finally:
        for collector in collectors:
            REGISTRY.unregister(collector)


@contextmanager
def serving_metrics(settings: Settings, *collectors: Collector) -> Iterator[None]:
    """As `registered_collectors`, and at PNEUMOWATCH_METRICS_PORT, where it is set, in threads of their own.

    Raises SettingsError where the port cannot be had.
    """
    with registered_collectors(*collectors):
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
