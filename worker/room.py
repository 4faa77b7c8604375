"""The reading room: a licence to read k scans becomes a claim, pixels, probabilities, and outcomes in the ledger."""

import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from db import cache, deployment, ledger
from db.outcomes import Claim, Classified, Outcome, Rejected
from db.session import Database
from pneumowatch.logs import get
from pneumowatch.queue import part_name
from pneumowatch.settings import Settings
from worker.decode import Away, Bounds, Decoded, Decoders, Errand, Fetched
from worker.door import Door
from worker.findings import judge
from worker.handover import Handover
from worker.keeper import keep
from worker.serving import Post, Serving, open_serving

log = get("worker")


class ReadingRoom:
    """What one worker process holds: the decoding children, the model, and the claims in its hands.

    Args:
        inboxes: name -> folder, as mounted on this machine.
        serving: the model to begin with.
        by: how this worker signs claims and events.
        patient_key: secret under which patient IDs are hashed; without it they are dropped.
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
    ) -> None:
        self._settings = settings
        self._inboxes = inboxes
        self._database = database
        self._post = Post(serving)
        self._handover: Handover | None = None
        self._decoders = decoders
        self._lease = timedelta(seconds=settings.lease_seconds)
        self._by = by
        self._patient_key = patient_key
        self._door = Door()

    def follow(self, load: Callable[[], Serving]) -> None:
        """From now on, let the champion be at work here, as `load` brings it, whoever that comes to be."""
        self._handover = Handover(self._database, self._post, load)

    def read(self, licence: int) -> None:
        """Claim and read up to `licence` scans, the most urgent first; returns once each has its outcome."""
        while licence > 0:
            with self._post.held() as serving:
                with self._door.shared():
                    claim = self._claim(min(licence, self._settings.batch_size))
                    if claim is None:
                        return  # read by others, or taken back: a message is no more than a hint
                    licence -= len(claim.scans)
                    if not claim.suspect:
                        self._read_claim(claim, serving)
                if claim.suspect:
                    with self._door.alone():
                        self._renew(claim)
                        self._read_claim(claim, serving)

    def close(self) -> None:
        if self._handover:
            self._handover.close()
        self._post.close()
        self._decoders.close()

    def _claim(self, count: int) -> Claim | None:
        return self._database.write(lambda connection: ledger.claim(connection, count, self._by, self._lease))

    def _renew(self, claim: Claim) -> None:
        self._database.write(lambda connection: ledger.renew(connection, claim, self._lease, alone=claim.suspect))

    def _read_claim(self, claim: Claim, serving: Serving) -> None:
        started = time.monotonic()
        fetched = self._fetch(claim, serving.side)
        if time.monotonic() - started > self._settings.lease_seconds / 2:
            self._renew(claim)  # by progress, never by a timer: a worker that hangs must lose its films
        outcomes = self._conclude(claim, fetched, serving)
        told = self._settings.destinations
        self._database.write(lambda connection: ledger.finish(connection, claim.token, outcomes, self._by, told))
        log.info("films read", **_tally(outcomes))

    def _fetch(self, claim: Claim, side: int) -> list[Fetched]:
        """An answer for each scan of the claim, in its order."""
        errands = [
            Errand(scan.id, self._inboxes[scan.inbox], scan.path_bytes, self._patient_key)
            for scan in claim.scans
            if scan.inbox in self._inboxes
        ]
        answers = {fetched.scan_id: fetched for fetched in self._decoders.fetch(errands, side)}
        # an inbox that this machine does not know is, from here, a share that is away
        return [answers.get(scan.id, Away(scan.id)) for scan in claim.scans]

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
        found = serving.predict(films)
        outcomes = [
            serving.outcome(film, probability, strangeness)
            for film, probability, strangeness in zip(
                films, found.probability.tolist(), found.strangeness.tolist(), strict=True
            )
        ]
        # before the outcomes are written: who finds a scan flagged finds its film
        keep(self._settings, films, outcomes, found.maps)
        return outcomes


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
    settings: Settings, inboxes: dict[str, Path], database: Database, device: str | None = None
) -> ReadingRoom:
    """A reading room ready for its first film: children started, and the champion registered, loaded, checked, warm,
    and followed by whichever comes after it."""
    patient_key = deployment.patient_key(database, settings)
    by = f"{part_name('worker')}:{os.getpid()}"
    cache.enroll(database, settings.models, by)

    def load() -> Serving:
        return open_serving(cache.fetch(database, settings.models), settings, device)

    bounds = Bounds(settings.max_bytes, settings.max_pixels, settings.decode_seconds, settings.decode_memory)
    decoders = Decoders(settings.decoder_count, bounds)
    serving = load()
    decoders.warm()
    log.info("model ready", model=serving.version)
    room = ReadingRoom(settings, inboxes, database, serving, decoders, by, patient_key)
    room.follow(load)
    return room
