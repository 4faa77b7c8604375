"""Nightly retraining: verdicts and the base dataset make a challenger, which is promoted if it passes the comparison.

The steps: read the labels; check that enough are new and that there is a base dataset; train on from the champion;
compare; decide. The decision and the promotion are one transaction. Nothing that others use changes before it, so an
attempt may be killed at any point.
"""

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from sqlalchemy import Connection

from db import deployment
from db.registry import model_cache, model_registry, training_runs
from db.registry.training_runs import LEASE_FACTOR, StaleRunReaper, TrainingDecision, TrainingOutcome, TrainingState
from db.session import Database
from db.worklist import verdicts
from pneumowatch.errors import ModelError, PneumowatchError, ShuttingDown, TrainingError
from pneumowatch.logs import get_logger
from pneumowatch.model_folder import ModelFolder, shipped_folder
from pneumowatch.queue import component_name
from pneumowatch.settings import Settings
from trainer import card, dataset, networks, train
from trainer.dataset import Dataset, PatientIdRule
from trainer.hyperparameters import Hyperparameters, fine_tuning
from trainer.nightly import comparison, timetable, verdict_labels
from trainer.nightly.comparison import Scores
from trainer.nightly.nightly_data import NightlyData, as_examples
from trainer.nightly.scoring import score_both, score_images
from trainer.nightly.verdict_labels import VerdictDataset
from trainer.nightly.workspace import locked_workspace

log = get_logger("training")

LABELS_CONTRADICT: Final = (
    "The newer verdicts say the contrary of what the champion predicts: labels were exchanged, or images are shown "
    "inverted. Nothing was learned from them."
)
SPLIT_MISMATCH_REASON: Final = (
    "Patients of the base dataset are identified by another rule than when the champion was trained, so it may have "
    "been trained on those that are held out now. Set PNEUMOWATCH_PATIENT_PATTERN and the patient key as they were "
    "then, or train a model here and promote it."
)
RECHECK_SECONDS: Final = 0.5  # how often a training that may be dead is checked

StageCallback = Callable[[str, int, int, str], None]  # stage, how much of it is done, of how much, a sentence


@dataclass(frozen=True)
class RetrainOptions:
    """Options of one attempt. None: the value of the network's preset."""

    force: bool = False  # even where too few labels are new
    when_due: bool = False  # only if a training is due by the timetable
    epochs: int | None = None
    steps_per_epoch: int | None = None


def run_retraining(
    settings: Settings,
    database: Database,
    stop: threading.Event,
    options: RetrainOptions = RetrainOptions(),
    on_progress: StageCallback = lambda stage, done, of, note: None,
) -> dict[str, Any] | None:
    """Run one retraining. Returns its row (`db.registry.training_runs.recent_runs`), or None where none is due.

    Raises:
        TrainingError: another one is running, or this one came to no decision; its row then says so too.
        ShuttingDown: `stop` was set; its row is `killed`.
    """
    token = secrets.token_hex(16)
    with locked_workspace(settings.data_dir, token) as workspace:
        gone = "Its process ended before the training did."
        database.write(
            lambda connection: training_runs.fail_run(connection, workspace.previous_token, gone, TrainingState.KILLED)
        )
        number = _start_run(settings, database, stop, token, options, on_progress)
        if number is None:
            return None
        retrain_run = RetrainRun(settings, database, stop, token, options, workspace.scratch, on_progress)
        _run_to_conclusion(retrain_run)
        row = dict(database.read(lambda connection: training_runs.get_run(connection, number)))
        log.info("training ended", **{key: row[key] for key in ("id", "state", "decision", "challenger", "reasons")})
        return row


def _start_run(
    settings: Settings,
    database: Database,
    stop: threading.Event,
    token: str,
    options: RetrainOptions,
    on_progress: StageCallback,
) -> int | None:
    """Start the attempt and return its number; None where none is due.

    Another attempt whose row is not renewed for a lease is taken to be dead.
    """
    reaper = StaleRunReaper(database, LEASE_FACTOR * settings.lease_seconds)
    by, first = component_name("retrain"), None

    def due(connection: Connection) -> bool:
        now = datetime.now().astimezone()
        return not options.when_due or timetable.is_retraining_due(connection, settings.retrain_at, now)

    while True:
        number = database.write(lambda connection: training_runs.start_run(connection, token, by, due))
        if number is not None:
            return number
        if not database.read(due):
            return None
        other = reaper.check()
        if other is None:
            continue
        current = (other["token"], other["renewed_at"])
        if first not in (None, current):
            raise TrainingError("Another training is running; `pneumowatch retrain --status` shows it.")
        first = current
        on_progress("waiting", 0, 0, "another training has not reported for a while")
        if stop.wait(RECHECK_SECONDS):
            raise ShuttingDown("Shutdown was requested while another training was being checked.")


def _run_to_conclusion(retrain_run: "RetrainRun") -> None:
    """Run the attempt and record in its row how it ended."""

    def failed(reason: str, state: TrainingState = TrainingState.FAILED) -> None:
        retrain_run.database.write(
            lambda connection: training_runs.fail_run(connection, retrain_run.token, reason, state)
        )

    try:
        retrain_run.run()
    except ShuttingDown:
        failed("A shutdown stopped it.", TrainingState.KILLED)
        raise
    except PneumowatchError as error:
        failed(str(error))
        raise
    except Exception as error:
        # any error of TensorFlow or the disk: the row must not look as if the attempt still ran
        failed(f"It ended with an unexpected error ({type(error).__name__}); see the log.")
        raise


class RetrainRun:
    """One attempt at a better model."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        stop: threading.Event,
        token: str,
        options: RetrainOptions,
        scratch: Path,
        on_progress: StageCallback,
    ) -> None:
        self.database = database
        self.token = token
        self._settings = settings
        self._stop = stop
        self._options = options
        self._scratch = scratch
        self._on_progress = on_progress
        self._renewed = -np.inf
        self._stage = ""

    def run(self) -> None:
        """Run until there is a decision, and record it in the row."""
        self._progress("reading")
        patient_rule = PatientIdRule.from_settings(self._settings, self._settings.patient_pattern)
        reviews = self.database.read(verdicts.standing_reviews)
        judgements, _ = verdict_labels.consensus_labels(reviews, patient_rule)
        used = self.database.read(
            lambda connection: training_runs.newest_review_seen(connection, *training_runs.TRAINED)
        )
        new = verdict_labels.count_newer(judgements, used)
        if new < self._settings.min_new_labels and not self._options.force:
            few = f"{new} judged images are new; {self._settings.min_new_labels} are required."
            return self._finish(TrainingOutcome(TrainingDecision.NOTHING_TO_DO, (few,), new_labels=new))
        if self._settings.training_dir is None:
            without = "There is no base dataset (PNEUMOWATCH_TRAINING_DIR) to evaluate a challenger on."
            return self._finish(TrainingOutcome(TrainingDecision.NO_BASE, (without,), new_labels=new))
        model_cache.register_local_models(self.database, self._settings.models, component_name("retrain"))
        champion = model_cache.fetch_model(self.database, self._settings.models)
        verdict_data = verdict_labels.read_verdict_dataset(
            self._settings.data_dir, reviews, champion.side, patient_rule
        )
        outcome = TrainingOutcome(
            TrainingDecision.REFUSED,
            (),
            {},
            champion.version,
            new_labels=new,
            last_review_id=verdict_data.last_review_id,
        )
        return self._learn(champion, verdict_data, outcome)

    def _learn(self, champion: ModelFolder, verdict_data: VerdictDataset, outcome: TrainingOutcome) -> None:
        promoted = self.database.read(
            lambda connection: training_runs.newest_review_seen(connection, TrainingDecision.PROMOTED)
        )
        base = self._base(champion, champion.side)
        if base.split_mismatch(champion.card):
            return self._finish(replace(outcome, reasons=(SPLIT_MISMATCH_REASON,)))
        self._progress("looking")
        data = NightlyData.combine(base, verdict_data, promoted)
        outcome = replace(outcome, figures={"labels": data.counts()})
        if len(data.held_out) < comparison.MIN_IMAGES and not self._options.force:  # no challenger could pass
            few = comparison.too_few(len(data.held_out))
            return self._finish(replace(outcome, decision=TrainingDecision.NOTHING_TO_DO, reasons=(few,)))
        if _labels_contradict(champion, data):
            return self._finish(replace(outcome, reasons=(LABELS_CONTRADICT,)))
        challenger = self._train_challenger(champion, data)
        self._progress("comparing")
        finding = comparison.compare_models(
            score_both(data.test, challenger, champion, self._shipped(champion, data)),
            score_both(data.held_out, challenger, champion),
        )
        figures = {**outcome.figures, **finding.figures}
        outcome = replace(outcome, reasons=finding.reasons, challenger=challenger.version, figures=figures)
        if not finding.promoted:
            return self._finish(outcome)
        return self.promote(challenger, replace(outcome, decision=TrainingDecision.PROMOTED))

    def _train_challenger(self, champion: ModelFolder, data: NightlyData) -> ModelFolder:
        """Train the challenger and write it where nobody else looks."""
        hyperparameters = self._hyperparameters(champion)
        steps, ended = hyperparameters.epochs * hyperparameters.steps_per_epoch, list[train.TrainingProgress]()

        def on_progress(at: train.TrainingProgress) -> None:
            if at.epoch_ended:
                ended.append(at)
            self._progress(
                "training",
                max(at.epoch - 1, 0) * hyperparameters.steps_per_epoch + at.step,
                steps,
                f"loss {at.loss:.3f}",
            )

        self._progress("training", 0, steps)
        start = networks.restore_network(champion)
        model = train.fit_network(data.training_examples(), data.validation, hyperparameters, on_progress, start)
        self._progress("concluding")
        known = card.data_description(champion.card)
        known["data"] |= {"verdicts": len(data.verdict_data.dataset.images), "began_from": champion.version}
        return train.finalize_model(
            model, hyperparameters, data.combined, known, self._scratch, data.evaluation_sets(), ended
        )

    def _hyperparameters(self, champion: ModelFolder) -> Hyperparameters:
        network = str(champion.card.get("network"))
        networks.get_network(network)  # raises where there is none of that name
        preset = fine_tuning(network)
        return replace(
            preset,
            epochs=self._options.epochs or preset.epochs,
            steps_per_epoch=self._options.steps_per_epoch or preset.steps_per_epoch,
            # a gate is fitted again where there was one; a nightly retraining never adds one
            gated=bool(champion.card.get("outputs", {}).get("gate")),
            # the sensitivity that this site, or the maker of the champion, chose
            target_sensitivity=champion.card["threshold"].get("target_sensitivity", preset.target_sensitivity),
        )

    def _shipped(self, champion: ModelFolder, data: NightlyData) -> Scores | None:
        """Score the frozen images with the shipped model, in the size that it takes; None where it is the champion."""
        ships = shipped_folder()
        if ships.version == champion.version:
            return None
        if ships.side == champion.side:
            return score_images(ships, data.test)
        return score_images(ships, self._base(champion, ships.side, "comparing").examples("test"))

    def _base(self, champion: ModelFolder, side: int, stage: str = "reading") -> Dataset:
        """Read the base dataset, with patients identified as when the champion was trained.

        By another rule it would be evaluated on images that it was trained on.
        """
        folder = self._settings.training_dir
        assert folder is not None
        deployment.check_patient_key(self.database, self._settings)
        patient_rule = PatientIdRule.from_card(champion.card, self._settings, self._settings.patient_pattern)
        return dataset.read_dataset(
            folder, side, patient_rule, on_progress=lambda done, of: self._progress(stage, done, of)
        )

    def promote(self, challenger: ModelFolder, outcome: TrainingOutcome) -> None:
        """Record the decision and promote the challenger: both, or neither."""
        self._progress("promoting")
        archive, by = model_cache.pack_folder(challenger), component_name("retrain")

        def promote(connection: Connection) -> bool:
            model_registry.lock_promotions(connection)  # or another promotion could come between the check and this one
            if model_registry.champion_version(connection) != outcome.champion:
                moved = "Another model was promoted during the training; the challenger was not compared with that one."
                return training_runs.finish_run(
                    connection, self.token, replace(outcome, decision=TrainingDecision.REFUSED, reasons=(moved,))
                )
            if not training_runs.finish_run(connection, self.token, outcome):
                return False
            model_registry.register_model(connection, challenger, archive, by)
            model_registry.promote_to_champion(connection, challenger.version, by, " ".join(outcome.reasons))
            return True

        self._require_ownership(self.database.write(promote))
        try:
            model_cache.fetch_model(self.database, self._settings.models)
        except ModelError as error:  # the promotion holds: each worker fetches the model itself
            log.warning("the new champion cannot be stored on this machine", error=str(error))

    def _finish(self, outcome: TrainingOutcome) -> None:
        self._require_ownership(
            self.database.write(lambda connection: training_runs.finish_run(connection, self.token, outcome))
        )

    def _progress(self, stage: str, done: int = 0, of: int = 0, note: str = "") -> None:
        """Report progress to the caller, and to the row at each stage and several times a lease within it."""
        self._on_progress(stage, done, of, note)
        if self._stop.is_set():
            raise ShuttingDown("Shutdown was requested during a training.")
        moment = time.monotonic()
        if stage != self._stage or moment - self._renewed > self._settings.lease_seconds:
            self._require_ownership(
                self.database.write(lambda connection: training_runs.renew_run(connection, self.token, stage))
            )
            self._stage, self._renewed = stage, moment

    def _require_ownership(self, still_ours: bool) -> None:
        if not still_ours:
            raise TrainingError(
                "This training was taken for dead and another one may have started; it decides nothing."
            )


def _labels_contradict(champion: ModelFolder, data: NightlyData) -> bool:
    if not data.newer.images:
        return False
    reviewed = as_examples(data.newer.images, champion.side)
    return comparison.labels_contradict(
        reviewed.labels, score_images(champion, reviewed).probabilities, reviewed.patients
    )
