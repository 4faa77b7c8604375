"""The model in use with its rules, and the slot in which another model may replace it."""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np

from db.ledger.outcomes import Classified, Outcome, Rejected
from db.states import Reason
from pneumowatch.imaging.reader import Pixels
from pneumowatch.model_folder import ModelFolder
from pneumowatch.settings import Settings
from worker.decision import NO_AGE_RULE, AgeRule, apply_input_gate
from worker.decode import DecodedFile, DecodeFailure
from worker.inference.batcher import Batcher
from worker.inference.classifier import Classifier
from worker.inference.model_output import ModelOutput


class LoadedModel(Protocol):
    """The part of `worker.inference.classifier.Classifier` that the batcher and the ledger need."""

    version: str
    side: int
    threshold: float

    def predict(self, images: Pixels) -> ModelOutput: ...


class ServedModel:
    """A loaded model with its batcher and rules.

    A claim is decoded, checked, classified and recorded with one and the same ServedModel, because another model may
    differ in image size, age range and threshold.

    `age_rule`: rule for patients outside the model's age range. `sample_unflagged`: fraction of unflagged scans that
    are shown to readers.
    """

    def __init__(
        self, model: LoadedModel, batch_size: int, age_rule: AgeRule = NO_AGE_RULE, sample_unflagged: float = 0.0
    ) -> None:
        self.model = model
        self.age_rule = age_rule
        self._sample_unflagged = sample_unflagged
        self._batcher = Batcher(model, batch_size)

    @property
    def version(self) -> str:
        return self.model.version

    @property
    def side(self) -> int:
        """Edge in pixels of the images it takes."""
        return self.model.side

    def predict(self, images: list[DecodedFile]) -> ModelOutput:
        """Classify images, at least one and at most a batch; blocks. They may share a batch with other claims."""
        return self._batcher.predict(np.stack([image.pixels for image in images]))

    def probe(self) -> None:
        """Classify a blank image. Raises what the model raises; it can then classify no other image either."""
        self._batcher.predict(np.zeros((1, self.side, self.side), np.uint8))

    def outcome(self, image: DecodedFile, probability: float, gate_score: float) -> Outcome:
        """Return the outcome for an image: classified, or rejected by the input gate."""
        admitted = apply_input_gate(image, gate_score)
        if isinstance(admitted, DecodeFailure):
            return Rejected(image.scan_id, Reason(admitted.reason), admitted.sentence, image.sha256, image.header)
        return Classified(
            image.scan_id,
            image.sha256,
            probability,
            probability >= self.model.threshold,
            self.model.threshold,
            self.model.version,
            self.age_rule.caution(image.header),
            image.header,
            self._sample_unflagged,
            gate_score,
            float(image.pixels.mean()),
        )

    def close(self) -> None:
        """Predict what waits, then end."""
        self._batcher.close()


def load_served_model(folder: ModelFolder, settings: Settings, device: str | None = None) -> ServedModel:
    """Load, check and warm a model. Raises as `worker.inference.classifier.Classifier`."""
    rule = AgeRule(folder.ages, settings.outside_age == "reject")
    model = Classifier(folder, settings.batch_size, device)
    return ServedModel(model, settings.batch_size, rule, settings.sample_unflagged)


class ModelSlot:
    """Holds the model in use, which may be swapped at any time.

    Claims that use the old model finish with it; later claims use its successor. The old model's memory is then freed:
    the process keeps 105 to 156 MiB more than with its first model, after one swap as after sixty (the shipped model,
    two cores), so no restart is needed.
    """

    def __init__(self, served: ServedModel) -> None:
        self._current = served
        self._users: dict[ServedModel, int] = {served: 0}  # model -> number of claims that use it
        self._lock = threading.Lock()

    @property
    def version(self) -> str:
        return self._current.version

    @contextmanager
    def use(self) -> Iterator[ServedModel]:
        """Yield the model in use; it stays loaded within the `with` block."""
        with self._lock:
            served = self._current
            self._users[served] += 1
        try:
            yield served
        finally:
            with self._lock:
                self._users[served] -= 1
            self._close_unused()

    def swap(self, successor: ServedModel) -> None:
        """Use the successor from the next claim on."""
        with self._lock:
            self._current = successor
            self._users[successor] = 0
        self._close_unused()

    def close(self) -> None:
        """Close the model in use, after what waits for it."""
        self._current.close()

    def _close_unused(self) -> None:
        """Close the replaced models that no claim uses any more."""
        with self._lock:
            unused = [one for one, users in self._users.items() if not users and one is not self._current]
            for one in unused:
                del self._users[one]
        for one in unused:
            one.close()
        if unused:
            del unused, one
            gc.collect()  # a network's weights are held in reference cycles
