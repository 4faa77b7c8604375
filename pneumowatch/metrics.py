"""Metrics for Prometheus: all of them by name, and the HTTP endpoint that serves them.

A process counts its own metrics here as it works. Metrics of the ledger are the same in all processes, so only two
kinds of components export them, the review app and `schedule` (`db.health.ledger_metrics`): take the maximum over
instances, never the sum. Labels name sources, states and machines, never an image or a patient.
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

REGISTRY: Final = CollectorRegistry()  # of this process; `serving_metrics` adds a component's own collectors
for python_collector in (ProcessCollector, PlatformCollector, GCCollector):
    python_collector(registry=REGISTRY)

# Counted by workers

IMAGES_PROCESSED: Final = Counter(
    "pneumowatch_images_processed",
    "Images processed by this worker, by source and outcome: flagged, not_flagged, rejected or deferred.",
    ["source", "outcome"],
    registry=REGISTRY,
)
BATCH_IMAGES: Final = Histogram(
    "pneumowatch_batch_images",
    "Images in one call of predict.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
    registry=REGISTRY,
)
STAGE_SECONDS: Final = Histogram(
    "pneumowatch_stage_seconds",
    "Seconds that one claim of scans spent in a stage: claim, fetch (read and decode), predict (with the wait for the "
    "model), write.",
    ["stage"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
    registry=REGISTRY,
)


class GaugeDefinition(NamedTuple):
    """A metric whose values are read at each scrape."""

    name: str
    help: str
    labels: tuple[str, ...] = ()

    def family(self, values: Mapping[Any, float]) -> Family:
        """Return the metric with {labels: value}; labels are a tuple."""
        family = GaugeMetricFamily(self.name, self.help, labels=self.labels)
        for labels, value in values.items():
            family.add_metric(labels, value)
        return family


# Of any process

BUILD_INFO: Final = GaugeDefinition(
    "pneumowatch_build_info", "Always 1; the label is the running version of pneumowatch.", ("version",)
)
MODEL_INFO: Final = GaugeDefinition(
    "pneumowatch_model_info", "Always 1; the label is the version of the model that this worker uses.", ("version",)
)
WORK_DONE: Final = GaugeDefinition(
    "pneumowatch_work_done",
    "Work done by a component of this process since it started, by kind.",
    ("component", "kind"),
)

# Of the ledger

DATABASE_UP: Final = GaugeDefinition(
    "pneumowatch_database_up", "1 if the database answers; if 0, all other metrics of the ledger are missing."
)
SCANS_BY_STATE: Final = GaugeDefinition("pneumowatch_scans", "Scans in each state, by source.", ("source", "state"))
WAITING_SCANS: Final = GaugeDefinition(
    "pneumowatch_waiting_scans", "Scans without a final state, by source.", ("source",)
)
OLDEST_WAITING: Final = GaugeDefinition(
    "pneumowatch_oldest_waiting_seconds",
    "Seconds that the oldest scan without a final state has waited, by source.",
    ("source",),
)
UNSCORED_SCANS: Final = GaugeDefinition(
    "pneumowatch_unscored_scans",
    "Scans without a prediction, by reason: rejected, failed, or waiting beyond the cap.",
    ("reason",),
)
FLAGGED_RATIO: Final = GaugeDefinition(
    "pneumowatch_flagged_ratio", "Share of flagged images among the most recent predictions, by source.", ("source",)
)
DRIFT_PSI: Final = GaugeDefinition(
    "pneumowatch_drift_psi",
    "Population stability index of the most recent predictions against the champion's reference, by feature: "
    "probability, gate_score or brightness. Missing: not measurable (too few images, or a model without a reference).",
    ("source", "feature"),
)
SOURCE_SILENT: Final = GaugeDefinition(
    "pneumowatch_source_silent", "1 if a source has been silent for longer than usual.", ("source",)
)
SOURCE_SILENCE: Final = GaugeDefinition(
    "pneumowatch_source_silence_seconds", "Seconds since a source's last image arrived.", ("source",)
)
CHAMPION_INFO: Final = GaugeDefinition(
    "pneumowatch_champion_info", "Always 1; the label is the version of the champion in the ledger.", ("version",)
)
HEARTBEAT_AGE: Final = GaugeDefinition(
    "pneumowatch_heartbeat_age_seconds",
    "Seconds since the last heartbeat of a component; the largest of each kind and machine.",
    ("component", "machine"),
)
COMPONENTS: Final = GaugeDefinition(
    "pneumowatch_components",
    "Components of the deployment, by health: well, stalled or silent.",
    ("component", "state"),
)
LAST_TRAINING: Final = GaugeDefinition(
    "pneumowatch_last_training", "1 for the outcome of the last training, 0 for every other outcome.", ("outcome",)
)
LAST_TRAINING_TIME: Final = GaugeDefinition(
    "pneumowatch_last_training_timestamp_seconds", "Unix time at which the last training ended."
)
OUTBOX_MESSAGES: Final = GaugeDefinition(
    "pneumowatch_outbox_messages", "Messages that wait or were given up, by channel and state.", ("channel", "state")
)
OUTBOX_OLDEST: Final = GaugeDefinition(
    "pneumowatch_outbox_oldest_waiting_seconds",
    "Seconds that the oldest waiting message has waited, by channel.",
    ("channel",),
)


@contextmanager
def timed_stage(stage: str) -> Iterator[None]:
    """Measure the seconds that one claim spends in a stage. An error inside is not counted."""
    started = time.monotonic()
    yield
    STAGE_SECONDS.labels(stage).observe(time.monotonic() - started)


class BuildInfoCollector(Collector):
    def collect(self) -> Iterator[Family]:
        yield BUILD_INFO.family({(__version__,): 1})


REGISTRY.register(BuildInfoCollector())


@contextmanager
def registered_collectors(*collectors: Collector) -> Iterator[None]:
    """Register collectors with the metrics of the process until the context ends."""
    for collector in collectors:
        REGISTRY.register(collector)
    try:
        yield
    finally:
        for collector in collectors:
            REGISTRY.unregister(collector)


@contextmanager
def serving_metrics(settings: Settings, *collectors: Collector) -> Iterator[None]:
    """Register collectors, and serve all metrics in threads at PNEUMOWATCH_METRICS_PORT where that is set.

    Raises SettingsError where the port is not available.
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
                f"{error.strerror}. Set another PNEUMOWATCH_METRICS_PORT: each component needs its own."
            ) from None
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
