"""A night at school: verdicts and the base dataset make a challenger, which takes over if it passes the comparison.

From beginning to end: labels, enough new ones?, a base dataset?, the champion goes on learning, the comparison, and the
decision, which is one transaction with the promotion. Until that transaction nothing that anyone looks at has changed,
so an attempt may be killed at any point.
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

from db import cache, deployment, registry, training
from db.session import Database
from db.training import LEASES, Conclusion, Decision, State, Watchman
from pneumowatch.errors import ModelError, PneumowatchError, ShuttingDown, TrainingError
from pneumowatch.logs import get
from pneumowatch.model import ModelFolder, shipped
from pneumowatch.queue import part_name
from pneumowatch.settings import Settings
from trainer import card, comparison, dataset, networks, timetable, train, verdicts
from trainer.comparison import Opinion
from trainer.curriculum import Curriculum, arrays
from trainer.dataset import Dataset, Naming
from trainer.examination import ask, examine
from trainer.knobs import Knobs, fine_tuning
from trainer.verdicts import Lessons
from trainer.workplace import occupied

log = get("training")

CONTRARY: Final = (
    "The newer verdicts say the contrary of what the champion says: labels were exchanged, or films are shown "
    "inverted. Nothing was learned from them."
)
OTHERWISE: Final = (
    "Patients of the base dataset are told apart otherwise than when the champion was trained, so it may have learned "
    "from those that are held out now. Set PNEUMOWATCH_PATIENT_PATTERN and the patient key as they were then, or train "
    "a model here and promote it."
)
LOOK_SECONDS: Final = 0.5  # how often a training that may be dead is looked at

Watch = Callable[[str, int, int, str], None]  # stage, how much of it is done, of how much, a sentence


@dataclass(frozen=True)
class Wanted:
    """How an attempt is to be run. None: as the network's preset has it."""

    force: bool = False  # even where too few labels are new
    when_due: bool = False  # only if the timetable says so
    epochs: int | None = None
    steps: int | None = None


def attempt(
    settings: Settings,
    database: Database,
    stop: threading.Event,
    wanted: Wanted = Wanted(),
    watch: Watch = lambda stage, done, of, note: None,
) -> dict[str, Any] | None:
    """One attempt at a better model. Returns its row (`db.training.listed`), or None where none is due.

    Raises:
        TrainingError: another one is running, or it could not come to a decision; its row then says so too.
        ShuttingDown: `stop` was set; its row is `killed`.
    """
    token = secrets.token_hex(16)
    with occupied(settings.data_dir, token) as place:
        gone = "Its process ended in the middle."
        database.write(lambda connection: training.fail(connection, place.left_by, gone, State.KILLED))
        number = _begin(settings, database, stop, token, wanted, watch)
        if number is None:
            return None
        night = Night(settings, database, stop, token, wanted, place.scratch, watch)
        _concluded(night)
        row = dict(database.read(lambda connection: training.one(connection, number)))
        log.info("training ended", **{key: row[key] for key in ("id", "state", "decision", "challenger", "reasons")})
        return row


def _begin(
    settings: Settings, database: Database, stop: threading.Event, token: str, wanted: Wanted, watch: Watch
) -> int | None:
    """The attempt's number. A row of another one that is not seen to move for a lease is a dead one's."""
    watchman = Watchman(database, LEASES * settings.lease_seconds)
    by, first = part_name("retrain"), None

    def due(connection: Connection) -> bool:
        now = datetime.now().astimezone()
        return not wanted.when_due or timetable.is_due(connection, settings.retrain_at, now)

    while True:
        number = database.write(lambda connection: training.begin(connection, token, by, due))
        if number is not None:
            return number
        if not database.read(due):
            return None
        other = watchman.look()
        if other is None:
            continue
        stands = (other["token"], other["renewed_at"])
        if first not in (None, stands):
            raise TrainingError("Another training is running; `pneumowatch retrain --status` shows it.")
        first = stands
        watch("waiting", 0, 0, "another training has not been heard of for a while")
        if stop.wait(LOOK_SECONDS):
            raise ShuttingDown("Shutdown was asked for while another training was looked at.")


def _concluded(night: "Night") -> None:
    """Run it, and see that its row says how it ended."""

    def failed(reason: str, state: State = State.FAILED) -> None:
        night.database.write(lambda connection: training.fail(connection, night.token, reason, state))

    try:
        night.run()
    except ShuttingDown:
        failed("It was told to stop.", State.KILLED)
        raise
    except PneumowatchError as error:
        failed(str(error))
        raise
    except Exception as error:
        # whatever TensorFlow or the disk came up with: the row must not look as if it still ran
        failed(f"It ended in an error that should not be ({type(error).__name__}); the log says where.")
        raise


class Night:
    """What one attempt holds in its hands."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        stop: threading.Event,
        token: str,
        wanted: Wanted,
        scratch: Path,
        watch: Watch,
    ) -> None:
        self.database = database
        self.token = token
        self._settings = settings
        self._stop = stop
        self._wanted = wanted
        self._scratch = scratch
        self._watch = watch
        self._renewed = -np.inf
        self._stage = ""

    def run(self) -> None:
        """To a decision, which stands in its row."""
        self._progress("reading")
        naming = Naming.here(self._settings, self._settings.patient_pattern)
        said = self.database.read(verdicts.said)
        judgements, _ = verdicts.judge(said, naming)
        used = self.database.read(lambda connection: training.seen_until(connection, *training.TRAINED))
        new = verdicts.new_since(judgements, used)
        if new < self._settings.min_new_labels and not self._wanted.force:
            few = f"{new} judged films are new; {self._settings.min_new_labels} are asked for."
            return self._finish(Conclusion(Decision.NOTHING_TO_DO, (few,), new_labels=new))
        if self._settings.training_dir is None:
            without = "There is no base dataset (PNEUMOWATCH_TRAINING_DIR) to hold a challenger against."
            return self._finish(Conclusion(Decision.NO_BASE, (without,), new_labels=new))
        cache.enroll(self.database, self._settings.models, part_name("retrain"))
        champion = cache.fetch(self.database, self._settings.models)
        lessons = verdicts.read(self._settings.data_dir, said, champion.side, naming)
        about = Conclusion(
            Decision.REFUSED, (), {}, champion.version, new_labels=new, last_review_id=lessons.last_review_id
        )
        return self._learn(champion, lessons, about)

    def _learn(self, champion: ModelFolder, lessons: Lessons, about: Conclusion) -> None:
        promoted = self.database.read(lambda connection: training.seen_until(connection, Decision.PROMOTED))
        base = self._base(champion, champion.side)
        if base.split_otherwise(champion.card):
            return self._finish(replace(about, reasons=(OTHERWISE,)))
        self._progress("looking")
        plan = Curriculum.of(base, lessons, promoted)
        about = replace(about, figures={"labels": plan.counts()})
        if len(plan.held_out) < comparison.ENOUGH and not self._wanted.force:  # it could not pass, whatever it learned
            few = comparison.too_few(len(plan.held_out))
            return self._finish(replace(about, decision=Decision.NOTHING_TO_DO, reasons=(few,)))
        if _contradicted(champion, plan):
            return self._finish(replace(about, reasons=(CONTRARY,)))
        challenger = self._school(champion, plan)
        self._progress("comparing")
        finding = comparison.decide(
            examine(plan.test, challenger, champion, self._shipped(champion, plan)),
            examine(plan.held_out, challenger, champion),
        )
        figures = {**about.figures, **finding.figures}
        about = replace(about, reasons=finding.reasons, challenger=challenger.version, figures=figures)
        if not finding.promoted:
            return self._finish(about)
        return self.promote(challenger, replace(about, decision=Decision.PROMOTED))

    def _school(self, champion: ModelFolder, plan: Curriculum) -> ModelFolder:
        """The challenger, written where nobody else looks."""
        knobs = self._knobs(champion)
        steps, ended = knobs.epochs * knobs.steps, list[train.Standing]()

        def watch(at: train.Standing) -> None:
            if at.ended:
                ended.append(at)
            self._progress("training", max(at.epoch - 1, 0) * knobs.steps + at.step, steps, f"loss {at.loss:.3f}")

        self._progress("training", 0, steps)
        start = networks.restore(champion)
        model = train.fit(plan.learned_from(), plan.validation, knobs, watch, start)
        self._progress("concluding")
        known = card.about(champion.card)
        known["data"] |= {"verdicts": len(plan.lessons.films.films), "began_from": champion.version}
        return train.conclude(model, knobs, plan.together, known, self._scratch, plan.judged(), ended)

    def _knobs(self, champion: ModelFolder) -> Knobs:
        network = str(champion.card.get("network"))
        networks.find(network)  # for its complaint
        preset = fine_tuning(network)
        return replace(
            preset,
            epochs=self._wanted.epochs or preset.epochs,
            steps=self._wanted.steps or preset.steps,
            # a gate is fitted anew where there was one: what turns films away is not for a night to begin
            gated=bool(champion.card.get("outputs", {}).get("gate")),
            # what this site, or whoever made the champion, asked for
            target_sensitivity=champion.card["threshold"].get("target_sensitivity", preset.target_sensitivity),
        )

    def _shipped(self, champion: ModelFolder, plan: Curriculum) -> Opinion | None:
        """Of the frozen films, in the size that the shipped model takes; None where it is the champion."""
        ships = shipped()
        if ships.version == champion.version:
            return None
        if ships.side == champion.side:
            return ask(ships, plan.test)
        return ask(ships, self._base(champion, ships.side, "comparing").examples("test"))

    def _base(self, champion: ModelFolder, side: int, stage: str = "reading") -> Dataset:
        """Its patients told apart as when the champion was trained, or it would be examined on what it learned from."""
        folder = self._settings.training_dir
        assert folder is not None
        deployment.check_patient_key(self.database, self._settings)
        naming = Naming.of_card(champion.card, self._settings, self._settings.patient_pattern)
        return dataset.read(folder, side, naming, watch=lambda done, of: self._progress(stage, done, of))

    def promote(self, challenger: ModelFolder, conclusion: Conclusion) -> None:
        """The decision and what it brings about, or neither."""
        self._progress("promoting")
        archive, by = cache.pack(challenger), part_name("retrain")

        def promote(connection: Connection) -> bool:
            registry.in_turn(connection)  # or another promotion could come between the look and this one
            if registry.champion(connection) != conclusion.champion:
                moved = "Another model was promoted while this one learned; it was not held against that one."
                return training.finish(
                    connection, self.token, replace(conclusion, decision=Decision.REFUSED, reasons=(moved,))
                )
            if not training.finish(connection, self.token, conclusion):
                return False
            registry.register(connection, challenger, archive, by)
            registry.promote(connection, challenger.version, by, " ".join(conclusion.reasons))
            return True

        self._must(self.database.write(promote))
        try:
            cache.fetch(self.database, self._settings.models)
        except ModelError as error:  # it serves all the same: each worker fetches it for itself
            log.warning("this machine's model store cannot take the new champion", error=str(error))

    def _finish(self, conclusion: Conclusion) -> None:
        self._must(self.database.write(lambda connection: training.finish(connection, self.token, conclusion)))

    def _progress(self, stage: str, done: int = 0, of: int = 0, note: str = "") -> None:
        """Told to whoever watches, and to the row: at each stage, and within it a few times a lease."""
        self._watch(stage, done, of, note)
        if self._stop.is_set():
            raise ShuttingDown("Shutdown was asked for in the middle of a training.")
        moment = time.monotonic()
        if stage != self._stage or moment - self._renewed > self._settings.lease_seconds:
            self._must(self.database.write(lambda connection: training.renew(connection, self.token, stage)))
            self._stage, self._renewed = stage, moment

    def _must(self, still_ours: bool) -> None:
        if not still_ours:
            raise TrainingError("This training was taken for dead, and its place given away; it decides nothing.")


def _contradicted(champion: ModelFolder, plan: Curriculum) -> bool:
    if not plan.newer.films:
        return False
    judged = arrays(plan.newer.films, champion.side)
    return comparison.contradicted(judged.labels, ask(champion, judged).said, judged.patients)
