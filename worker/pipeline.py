"""Process scans: a permit for k scans becomes a claim, pixels, probabilities, and outcomes in the ledger."""

import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Final

from prometheus_client.registry import Collector

from db import deployment
from db.health.inbox_presence import InboxPresence
from db.ledger import transitions
from db.ledger.outcomes import Claim, Classified, Deferred, Outcome, Rejected
from db.registry import model_cache
from db.session import Database
from pneumowatch.component import Component
from pneumowatch.errors import ShuttingDown
from pneumowatch.logs import get_logger
from pneumowatch.metrics import IMAGES_PROCESSED, MODEL_INFO, Family, timed_stage
from pneumowatch.model_folder import ModelFolder
from pneumowatch.queue import component_name
from pneumowatch.settings import Settings
from worker.circuit_breaker import CircuitBreaker
from worker.decision import decide
from worker.decode import DecodedFile, DecodeRequest, DecodeResult, DecoderLimits, DecoderPool
from worker.image_keeper import ImageKeeper
from worker.inference.model_reloader import ModelReloader, describe_error, load_initial_model
from worker.inference.serving import ModelSlot, ServedModel, load_served_model
from worker.rwlock import ReadWriteLock
from worker.share_backoff import ShareBackoff

log = get_logger("worker")

ERROR_RETRY_DELAY: Final = timedelta(seconds=5)  # before the retry of a quarantined scan that failed; grows each time
WAITING_CAP_FRACTION: Final = 0.75  # of the waiting cap; scans waiting longer are overdue: the rest is for their work


class ScanProcessor(Collector):
    """Claims, decodes and classifies scans in one worker process; holds its decoders, its model and its claims.

    Args:
        inboxes: name -> folder, as mounted on this machine.
        served: the first model.
        by: name of this worker in claims and events.
        patient_key: secret with which patient IDs are hashed; without it they are dropped.
        stop: set at shutdown; ends the waits of a worker that cannot process scans.
        component: receives progress and status for the heartbeat.
    """

    def __init__(
        self,
        settings: Settings,
        inboxes: dict[str, Path],
        database: Database,
        served: ServedModel,
        decoders: DecoderPool,
        by: str,
        patient_key: bytes | None = None,
        stop: threading.Event | None = None,
        component: Component | None = None,
    ) -> None:
        self._component = component or Component("worker")
        self._settings = settings
        self._inboxes = inboxes
        self._database = database
        self._slot = ModelSlot(served)
        self._reloader: ModelReloader | None = None
        self._decoders = decoders
        self._lease = timedelta(seconds=settings.lease_seconds)
        self._overdue_after = WAITING_CAP_FRACTION * timedelta(minutes=settings.waiting_cap_minutes)
        self._by = by
        self._patient_key = patient_key
        self._share_backoff = ShareBackoff(InboxPresence(database, settings.mount_grace_seconds), inboxes)
        self._lock = ReadWriteLock()
        self._circuit_breaker = CircuitBreaker(stop or threading.Event())
        self._image_keeper = ImageKeeper(settings)

    def follow_champion(self, load: Callable[[], ServedModel], register: Callable[[str], None]) -> None:
        """Keep the current champion loaded from now on (`ModelReloader`)."""
        self._reloader = ModelReloader(self._database, self._slot, load, register)

    def process(self, permits: int) -> None:
        """Claim and process up to `permits` scans, the most urgent first.

        Returns once each has its outcome or was released. Blocks while this worker cannot process scans; raises
        ShuttingDown if shutdown is requested meanwhile.
        """
        while permits > 0:
            self._circuit_breaker.wait(self._probe)
            with self._slot.use() as served:
                with self._lock.shared():
                    claim = self._claim(min(permits, self._settings.batch_size))
                    if claim is None:
                        return  # another worker claimed them, or they are queued no more: a message guarantees nothing
                    permits -= len(claim.scans)
                    if not claim.quarantined:
                        self._process_claim(claim, served)
                if claim.quarantined:
                    with self._lock.exclusive():
                        self._process_claim(claim, served)

    def watch_health(self, on_change: Callable[[bool], None]) -> None:
        """Call `on_change(False)` when this worker can process no more scans, and `on_change(True)` when it can again.

        Returns at shutdown.
        """
        self._circuit_breaker.watch_health(self._probe, on_change)

    def collect(self) -> Iterator[Family]:
        """Yield the metric of the model in use. Metrics of processed scans are counted as they are processed."""
        yield MODEL_INFO.family({(self._slot.version,): 1})

    def close(self) -> None:
        """End the reloader, the model and the decoders."""
        if self._reloader:
            self._reloader.close()
        self._slot.close()
        self._decoders.close()

    def _claim(self, count: int) -> Claim | None:
        with timed_stage("claim"):
            return self._database.write(
                lambda connection: transitions.claim(connection, count, self._by, self._lease, self._overdue_after)
            )

    def _renew(self, claim: Claim) -> bool:
        return self._database.write(
            lambda c: transitions.renew_lease(c, claim, self._lease, exclusive=claim.quarantined)
        )

    def _probe(self) -> None:
        with self._slot.use() as served:
            served.probe()

    def _process_claim(self, claim: Claim, served: ServedModel) -> None:
        """Process the claim. After an error release it at once instead of waiting for its lease to expire."""
        try:
            if claim.quarantined and not self._renew(claim):
                return  # its lease expired while it waited for the exclusive lock
            self._process_monitored(claim, served)
        except ShuttingDown:
            raise
        except Exception as error:  # noqa: BLE001 - whatever failed, other scans must still be processed
            self._release(claim, served, error)
        else:
            self._circuit_breaker.record_success()

    def _process_monitored(self, claim: Claim, served: ServedModel) -> None:
        with self._component.expecting(f"batch {claim.token[:6]}", self._lease.total_seconds()) as progressed:
            self._process_batch(claim, served, progressed)

    def _process_batch(self, claim: Claim, served: ServedModel, progressed: Callable[[], None]) -> None:
        started = time.monotonic()
        with timed_stage("fetch"):
            fetched = self._fetch(claim, served.side)
        progressed()
        if time.monotonic() - started > self._settings.lease_seconds / 2:
            self._renew(claim)  # by progress, never by a timer: a worker that hangs must lose its claim
        outcomes = self._decide(claim, fetched, served)
        channels = self._settings.notification_channels
        with timed_stage("write"):
            self._database.write(
                lambda connection: transitions.record_outcomes(connection, claim.token, outcomes, self._by, channels)
            )
        counts = _outcome_counts(outcomes)
        _count_outcomes(claim, outcomes)
        self._component.record_progress(**counts)
        log.info("scans processed", **counts)

    def _release(self, claim: Claim, served: ServedModel, error: Exception) -> None:
        ids = [scan.id for scan in claim.scans]
        kind, frames = type(error).__name__, traceback.extract_tb(error.__traceback__)[-3:]
        scans_at_fault = self._circuit_breaker.record_failure(
            error, ids[0] if claim.quarantined else None, served.probe
        )
        log.error(
            "scans could not be processed; they are released, to be processed one by one"
            if scans_at_fault
            else "this worker cannot process scans now; they are released",
            scans=ids,
            error=describe_error(error),
            at=[f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames],
        )
        if scans_at_fault:
            claimed, reason = [(scan_id, claim.token) for scan_id in ids], f"reading it ended in an error ({kind})"
            attempts = self._settings.max_attempts
            self._database.write(
                lambda c: transitions.expire_claims(c, claimed, attempts, self._by, reason, ERROR_RETRY_DELAY)
            )
        else:
            at, reason = transitions.utc_now(), f"its worker could not process scans ({kind})"
            uncounted = [Deferred(scan_id, at, reason) for scan_id in ids]
            self._database.write(lambda c: transitions.record_outcomes(c, claim.token, uncounted, self._by))

    def _fetch(self, claim: Claim, side: int) -> list[DecodeResult]:
        """Read and decode the files of a claim. Returns one result per scan, in the claim's order."""
        requests = [
            DecodeRequest(scan.id, self._inboxes[scan.inbox], scan.path_bytes, self._patient_key)
            for scan in self._share_backoff.select_due(claim.scans)
        ]
        answers = {fetched.scan_id: fetched for fetched in self._decoders.decode(requests, side)}
        return self._share_backoff.confirm(claim.scans, answers)

    def _decide(self, claim: Claim, fetched: list[DecodeResult], served: ServedModel) -> list[Outcome]:
        at, settle = transitions.utc_now(), timedelta(seconds=self._settings.settle_seconds)
        outcomes: list[Outcome] = []
        images: list[DecodedFile] = []
        for scan, answer in zip(claim.scans, map(served.age_rule.apply, fetched), strict=True):
            decision = decide(scan, answer, at, settle)
            if decision is not None:
                outcomes.append(decision)
            elif isinstance(answer, DecodedFile):
                images.append(answer)
        return outcomes + (self._classify(images, served) if images else [])

    def _classify(self, images: list[DecodedFile], served: ServedModel) -> list[Outcome]:
        with timed_stage("predict"):
            output = served.predict(images)
        outcomes = [
            served.outcome(image, probability, gate_score)
            for image, probability, gate_score in zip(
                images, output.probability.tolist(), output.gate_score.tolist(), strict=True
            )
        ]
        # before the outcomes are written: a scan that is shown as flagged must have its image
        self._image_keeper.keep(images, outcomes, output.maps)
        return outcomes


def _count_outcomes(claim: Claim, outcomes: list[Outcome]) -> None:
    """Count the outcomes in the metrics, by source and status."""
    sources = {scan.id: scan.inbox for scan in claim.scans}
    for outcome in outcomes:
        if isinstance(outcome, Classified):
            status = "flagged" if outcome.flagged else "not_flagged"
        else:
            status = "rejected" if isinstance(outcome, Rejected) else "deferred"
        IMAGES_PROCESSED.labels(sources[outcome.scan_id], status).inc()


def _outcome_counts(outcomes: list[Outcome]) -> dict[str, int]:
    """Return the counts for the log. Counts alone: file names may name patients."""
    classified = [outcome for outcome in outcomes if isinstance(outcome, Classified)]
    rejected = sum(isinstance(outcome, Rejected) for outcome in outcomes)
    return {
        "classified": len(classified),
        "flagged": sum(outcome.flagged for outcome in classified),
        "rejected": rejected,
        "deferred": len(outcomes) - len(classified) - rejected,
    }


def start_scan_processor(
    settings: Settings,
    inboxes: dict[str, Path],
    database: Database,
    device: str | None = None,
    stop: threading.Event | None = None,
    wait_for_model: bool = True,
    component: Component | None = None,
) -> ScanProcessor:
    """Start a processor that is ready for its first scan.

    Its decoders run, and the champion is registered, loaded, checked and warmed; later champions replace it.

    Args:
        stop: set at shutdown.
        wait_for_model: wait until a model can be loaded (`worker.inference.model_reloader.load_initial_model`).
        component: receives progress and status for the heartbeat.

    Raises ShuttingDown where shutdown is requested meanwhile, and what `load_initial_model` raises.
    """
    component = component or Component("worker")
    component.set_status("loading the model")
    patient_key = deployment.load_patient_key(database, settings)
    by = f"{component_name('worker')}:{os.getpid()}"

    def load(version: str | None = None) -> ServedModel:
        model_cache.register_local_models(database, settings.models, by)
        return load_served_model(model_cache.fetch_model(database, settings.models, version), settings, device)

    def register(version: str) -> None:
        model_cache.register_folder(database, ModelFolder.read(settings.models / version), by)

    stop = stop or threading.Event()
    served = load_initial_model(database, load, stop if wait_for_model else None)
    if stop.is_set():
        raise ShuttingDown("Shutdown was requested while the model was loading.")
    bounds = DecoderLimits(settings.max_bytes, settings.max_pixels, settings.decode_seconds, settings.decode_memory)
    decoders = DecoderPool(settings.decoder_count, bounds)
    decoders.warm()
    log.info("model ready", model=served.version)
    processor = ScanProcessor(settings, inboxes, database, served, decoders, by, patient_key, stop, component)
    processor.follow_champion(load, register)
    component.set_status("idle", busy_state="reading")
    component.record_progress()
    return processor
