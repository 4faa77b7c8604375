"""The reading room: a licence to read k scans becomes a claim, pixels, probabilities, and outcomes in the ledger."""

import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Final

from prometheus_client.registry import Collector

from db import cache, deployment, ledger
from db.outcomes import Claim, Classified, Deferred, Outcome, Rejected
from db.presence import Presence
from db.pulse import Part
from db.session import Database
from pneumowatch.errors import ShuttingDown
from pneumowatch.logs import get
from pneumowatch.metrics import MODEL, READ, Family, timed
from pneumowatch.model import ModelFolder
from pneumowatch.queue import part_name
from pneumowatch.settings import Settings
from worker.absences import Absences
from worker.decode import Bounds, Decoded, Decoders, Errand, Fetched
from worker.door import Door
from worker.findings import judge
from worker.fitness import Fitness
from worker.handover import Handover, first_model, said_of
from worker.keeper import Keeper
from worker.serving import Post, Serving, open_serving

log = get("worker")

PAUSE: Final = timedelta(seconds=5)  # until a film that ended in an error alone is read again; longer each time
PATIENCE: Final = 0.75  # of the waiting cap: the rest is for those to be read that reach this together


class ReadingRoom(Collector):
    """What one worker process holds: the decoding children, the model, and the claims in its hands.

    Args:
        inboxes: name -> folder, as mounted on this machine.
        serving: the model to begin with.
        by: how this worker signs claims and events.
        patient_key: secret under which patient IDs are hashed; without it they are dropped.
        stop: set at shutdown; ends the waits of a worker that cannot read.
        part: is told what gets done.
    """

    def __init__(
        self,
        settings: Settings,
        inboxes: dict[str, Path],
        database: Database,
        serving: Serving,
        decoders: Decoders,
        by: str,
        patient_key: bytes | None = None,
        stop: threading.Event | None = None,
        part: Part | None = None,
    ) -> None:
        self._part = part or Part("worker")
        self._settings = settings
        self._inboxes = inboxes
        self._database = database
        self._post = Post(serving)
        self._handover: Handover | None = None
        self._decoders = decoders
        self._lease = timedelta(seconds=settings.lease_seconds)
        self._patience = PATIENCE * timedelta(minutes=settings.waiting_cap_minutes)
        self._by = by
        self._patient_key = patient_key
        self._absences = Absences(Presence(database, settings.patience_seconds), inboxes)
        self._door = Door()
        self._fitness = Fitness(stop or threading.Event())
        self._keeper = Keeper(settings)

    def follow(self, load: Callable[[], Serving], enlist: Callable[[str], None]) -> None:
        """From now on, let the champion be at work here, whoever that comes to be (`Handover`)."""
        self._handover = Handover(self._database, self._post, load, enlist)

    def read(self, licence: int) -> None:
        """Claim and read up to `licence` scans, the most urgent first; returns once each has its outcome or was given
        back. Blocks while this worker cannot read; raises ShuttingDown if that is asked for meanwhile."""
        while licence > 0:
            self._fitness.wait(self._try_out)
            with self._post.held() as serving:
                with self._door.shared():
                    claim = self._claim(min(licence, self._settings.batch_size))
                    if claim is None:
                        return  # read by others, or taken back: a message is no more than a hint
                    licence -= len(claim.scans)
                    if not claim.suspect:
                        self._settle(claim, serving)
                if claim.suspect:
                    with self._door.alone():
                        self._settle(claim, serving)

    def watch(self, tell: Callable[[bool], None]) -> None:
        """Until shutdown, `tell` of it whenever this worker can read no more, and when it can again."""
        self._fitness.watch(self._try_out, tell)

    def collect(self) -> Iterator[Family]:
        """The metrics of a room; those of its work are counted as it is done."""
        yield MODEL.family({(self._post.version,): 1})

    def close(self) -> None:
        if self._handover:
            self._handover.close()
        self._post.close()
        self._decoders.close()

    def _claim(self, count: int) -> Claim | None:
        with timed("claim"):
            return self._database.write(
                lambda connection: ledger.claim(connection, count, self._by, self._lease, self._patience)
            )

    def _renew(self, claim: Claim) -> bool:
        return self._database.write(lambda c: ledger.renew(c, claim, self._lease, alone=claim.suspect))

    def _try_out(self) -> None:
        with self._post.held() as serving:
            serving.try_out()

    def _settle(self, claim: Claim, serving: Serving) -> None:
        """Read the claim; where that ends in an error, give it back at once rather than leave it to its lease."""
        try:
            if claim.suspect and not self._renew(claim):
                return  # it was taken back while it waited for the room to be empty
            self._read_claim(claim, serving)
        except ShuttingDown:
            raise
        except Exception as error:  # noqa: BLE001 - of a film or of this worker; others must be read all the same
            self._give_back(claim, serving, error)
        else:
            self._fitness.has_read()

    def _read_claim(self, claim: Claim, serving: Serving) -> None:
        with self._part.holding(f"batch {claim.token[:6]}", self._lease.total_seconds()) as moved:
            self._read_held(claim, serving, moved)

    def _read_held(self, claim: Claim, serving: Serving, moved: Callable[[], None]) -> None:
        started = time.monotonic()
        with timed("fetch"):
            fetched = self._fetch(claim, serving.side)
        moved()
        if time.monotonic() - started > self._settings.lease_seconds / 2:
            self._renew(claim)  # by progress, never by a timer: a worker that hangs must lose its films
        outcomes = self._conclude(claim, fetched, serving)
        told = self._settings.destinations
        with timed("write"):
            self._database.write(lambda connection: ledger.finish(connection, claim.token, outcomes, self._by, told))
        tally = _tally(outcomes)
        _count(claim, outcomes)
        self._part.did(**tally)
        log.info("films read", **tally)

    def _give_back(self, claim: Claim, serving: Serving, error: Exception) -> None:
        ids = [scan.id for scan in claim.scans]
        kind, frames = type(error).__name__, traceback.extract_tb(error.__traceback__)[-3:]
        blamed = self._fitness.blames(error, ids[0] if claim.suspect else None, serving.try_out)
        log.error(
            "films could not be read; they are given back, to be read one by one"
            if blamed
            else "films could not be read by this worker now; they are given back",
            scans=ids,
            error=said_of(error),
            at=[f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames],
        )
        if blamed:
            pairs, why = [(scan_id, claim.token) for scan_id in ids], f"reading it ended in an error ({kind})"
            attempts = self._settings.max_attempts
            self._database.write(lambda c: ledger.expire(c, pairs, attempts, self._by, why, PAUSE))
        else:
            at, why = ledger.now(), f"its worker could not read ({kind})"
            uncounted = [Deferred(scan_id, at, why) for scan_id in ids]
            self._database.write(lambda c: ledger.finish(c, claim.token, uncounted, self._by))

    def _fetch(self, claim: Claim, side: int) -> list[Fetched]:
        """An answer for each scan of the claim, in its order."""
        errands = [
            Errand(scan.id, self._inboxes[scan.inbox], scan.path_bytes, self._patient_key)
            for scan in self._absences.worth_a_try(claim.scans)
        ]
        answers = {fetched.scan_id: fetched for fetched in self._decoders.fetch(errands, side)}
        return self._absences.weigh(claim.scans, answers)

    def _conclude(self, claim: Claim, fetched: list[Fetched], serving: Serving) -> list[Outcome]:
        at, settle = ledger.now(), timedelta(seconds=self._settings.settle_seconds)
        outcomes: list[Outcome] = []
        films: list[Decoded] = []
        for scan, answer in zip(claim.scans, map(serving.age_rule.admit, fetched), strict=True):
            finding = judge(scan, answer, at, settle)
            if finding is not None:
                outcomes.append(finding)
            elif isinstance(answer, Decoded):
                films.append(answer)
        return outcomes + (self._classify(films, serving) if films else [])

    def _classify(self, films: list[Decoded], serving: Serving) -> list[Outcome]:
        with timed("predict"):
            found = serving.predict(films)
        outcomes = [
            serving.outcome(film, probability, strangeness)
            for film, probability, strangeness in zip(
                films, found.probability.tolist(), found.strangeness.tolist(), strict=True
            )
        ]
        # before the outcomes are written: who finds a scan flagged finds its film
        self._keeper.keep(films, outcomes, found.maps)
        return outcomes


def _count(claim: Claim, outcomes: list[Outcome]) -> None:
    """For the metrics, by source."""
    sources = {scan.id: scan.inbox for scan in claim.scans}
    for outcome in outcomes:
        if isinstance(outcome, Classified):
            what = "flagged" if outcome.flagged else "not_flagged"
        else:
            what = "rejected" if isinstance(outcome, Rejected) else "later"
        READ.labels(sources[outcome.scan_id], what).inc()


def _tally(outcomes: list[Outcome]) -> dict[str, int]:
    """For the log: counts alone, as names of films may name patients."""
    classified = [outcome for outcome in outcomes if isinstance(outcome, Classified)]
    rejected = sum(isinstance(outcome, Rejected) for outcome in outcomes)
    return {
        "classified": len(classified),
        "flagged": sum(outcome.flagged for outcome in classified),
        "rejected": rejected,
        "later": len(outcomes) - len(classified) - rejected,
    }


def open_room(
    settings: Settings,
    inboxes: dict[str, Path],
    database: Database,
    device: str | None = None,
    stop: threading.Event | None = None,
    patient: bool = True,
    part: Part | None = None,
) -> ReadingRoom:
    """A reading room ready for its first film: children started, and the champion registered, loaded, checked, warm,
    and followed by whichever comes after it.

    Args:
        stop: set at shutdown.
        patient: a model that can be loaded is waited for (`worker.handover.first_model`).
        part: is told what gets done.

    Raises ShuttingDown where that is asked for meanwhile, and what `first_model` raises.
    """
    part = part or Part("worker")
    part.say("loading the model")
    patient_key = deployment.patient_key(database, settings)
    by = f"{part_name('worker')}:{os.getpid()}"

    def load(version: str | None = None) -> Serving:
        cache.enroll(database, settings.models, by)
        return open_serving(cache.fetch(database, settings.models, version), settings, device)

    def enlist(version: str) -> None:
        cache.add(database, ModelFolder.read(settings.models / version), by)

    stop = stop or threading.Event()
    serving = first_model(database, load, stop if patient else None)
    if stop.is_set():
        raise ShuttingDown("Shutdown was asked for while the model was loaded.")
    bounds = Bounds(settings.max_bytes, settings.max_pixels, settings.decode_seconds, settings.decode_memory)
    decoders = Decoders(settings.decoder_count, bounds)
    decoders.warm()
    log.info("model ready", model=serving.version)
    room = ReadingRoom(settings, inboxes, database, serving, decoders, by, patient_key, stop, part)
    room.follow(load, enlist)
    part.say("idle", busy="reading")
    part.did()
    return room
