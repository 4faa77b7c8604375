"""The reading room: a licence to read k scans becomes a claim, pixels, probabilities, and outcomes in the ledger."""

import os
import time
from datetime import timedelta
from pathlib import Path

import numpy as np

from db import deployment, ledger, registry
from db.outcomes import Claim, Classified, Outcome, Rejected
from db.session import Database
from db.states import Reason
from pneumowatch.logs import get
from pneumowatch.model import champion
from pneumowatch.queue import part_name
from pneumowatch.settings import Settings
from worker.batch import Batcher
from worker.classifier import Classifier
from worker.decode import Away, Bounds, Decoded, Decoders, Errand, Fetched, Undecoded
from worker.door import Door
from worker.findings import ANY_AGE, AgeRule, admit_chest, judge

log = get("worker")


class ReadingRoom:
    """What one worker process holds: the decoding children, the model, and the claims in its hands.

    Args:
        inboxes: name -> folder, as mounted on this machine.
        by: how this worker signs claims and events.
        age_rule: what becomes of films whose patient is of an age that the model does not know.
        patient_key: secret under which patient IDs are hashed; without it they are dropped.
    """

    def __init__(
        self,
        settings: Settings,
        inboxes: dict[str, Path],
        database: Database,
        classifier: Classifier,
        decoders: Decoders,
        by: str,
        age_rule: AgeRule = ANY_AGE,
        patient_key: bytes | None = None,
    ) -> None:
        self._settings = settings
        self._inboxes = inboxes
        self._database = database
        self._classifier = classifier
        self._decoders = decoders
        self._batcher = Batcher(classifier, settings.batch_size)
        self._lease = timedelta(seconds=settings.lease_seconds)
        self._by = by
        self._age_rule = age_rule
        self._patient_key = patient_key
        self._door = Door()

    def read(self, licence: int) -> None:
        """Claim and read up to `licence` scans, the most urgent first; returns once each has its outcome."""
        while licence > 0:
            with self._door.shared():
                claim = self._claim(min(licence, self._settings.batch_size))
                if claim is None:
                    return  # read by others, or taken back: a message is no more than a hint
                licence -= len(claim.scans)
                if not claim.suspect:
                    self._read_claim(claim)
            if claim.suspect:
                with self._door.alone():
                    self._renew(claim)
                    self._read_claim(claim)

    def close(self) -> None:
        self._batcher.close()
        self._decoders.close()

    def _claim(self, count: int) -> Claim | None:
        return self._database.write(lambda connection: ledger.claim(connection, count, self._by, self._lease))

    def _renew(self, claim: Claim) -> None:
        self._database.write(lambda connection: ledger.renew(connection, claim, self._lease, alone=claim.suspect))

    def _read_claim(self, claim: Claim) -> None:
        started = time.monotonic()
        fetched = self._fetch(claim)
        if time.monotonic() - started > self._settings.lease_seconds / 2:
            self._renew(claim)  # by progress, never by a timer: a worker that hangs must lose its films
        outcomes = self._conclude(claim, fetched)
        self._database.write(lambda connection: ledger.finish(connection, claim.token, outcomes, self._by))
        log.info("films read", **_tally(outcomes))

    def _fetch(self, claim: Claim) -> list[Fetched]:
        """An answer for each scan of the claim, in its order."""
        errands = [
            Errand(scan.id, self._inboxes[scan.inbox], scan.path_bytes, self._patient_key)
            for scan in claim.scans
            if scan.inbox in self._inboxes
        ]
        answers = {fetched.scan_id: fetched for fetched in self._decoders.fetch(errands)}
        # an inbox that this machine does not know is, from here, a share that is away
        return [answers.get(scan.id, Away(scan.id)) for scan in claim.scans]

    def _conclude(self, claim: Claim, fetched: list[Fetched]) -> list[Outcome]:
        at, settle = ledger.now(), timedelta(seconds=self._settings.settle_seconds)
        outcomes: list[Outcome] = []
        films: list[Decoded] = []
        for scan, answer in zip(claim.scans, map(self._age_rule.admit, fetched), strict=True):
            finding = judge(scan, answer, at, settle)
            if finding is not None:
                outcomes.append(finding)
            elif isinstance(answer, Decoded):
                films.append(answer)
        return outcomes + self._classify(films)

    def _classify(self, films: list[Decoded]) -> list[Outcome]:
        if not films:
            return []
        found = self._batcher.predict(np.stack([film.pixels for film in films]))
        return [
            self._outcome(film, float(probability), float(strangeness))
            for film, probability, strangeness in zip(films, found.probability, found.strangeness, strict=True)
        ]

    def _outcome(self, film: Decoded, probability: float, strangeness: float) -> Outcome:
        admitted = admit_chest(film, strangeness)
        if isinstance(admitted, Undecoded):
            return Rejected(film.scan_id, Reason(admitted.reason), admitted.sentence, film.sha256, film.header)
        model = self._classifier
        return Classified(
            film.scan_id,
            film.sha256,
            probability,
            probability >= model.threshold,
            model.threshold,
            model.version,
            self._age_rule.caution(film.header),
            film.header,
        )


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
    """A reading room ready for its first film: children started, model loaded, checked, warm and registered."""
    patient_key = deployment.patient_key(database, settings)
    folder = champion(settings.models)
    bounds = Bounds(settings.max_bytes, settings.max_pixels, settings.decode_seconds, settings.decode_memory)
    decoders = Decoders(settings.decoder_count, folder.side, bounds)
    classifier = Classifier(folder, settings.batch_size, device)
    decoders.warm()
    database.write(lambda connection: registry.register(connection, folder.version, folder.sha256, folder.card))
    log.info("model ready", model=folder.version)
    age_rule = AgeRule(folder.ages, settings.outside_age == "reject")
    by = f"{part_name('worker')}:{os.getpid()}"
    return ReadingRoom(settings, inboxes, database, classifier, decoders, by, age_rule, patient_key)
