"""The model at work, with all that comes with it, and the post from which another may relieve it."""

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
    """What `worker.inference.classifier.Classifier` is to its batcher and to the ledger."""

    version: str
    side: int
    threshold: float

    def predict(self, images: Pixels) -> ModelOutput: ...


class ServedModel:
    """One model at work. A claim is decoded, judged, predicted and recorded by one of these, as another model may take
    films of another size, know other ages and flag from another threshold.

    `age_rule`: what becomes of films whose patient is of an age that the model does not know. `sample_unflagged`: the
    share of unflagged films that readers are to see.
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
        """Edge in pixels of the films it takes."""
        return self.model.side

    def predict(self, images: list[DecodedFile]) -> ModelOutput:
        """Blocks; together with the films of other claims. At least one film, at most a batch."""
        return self._batcher.predict(np.stack([image.pixels for image in images]))

    def probe(self) -> None:
        """Read a blank film. Raises what the model raises, which then can read no other film either."""
        self._batcher.predict(np.zeros((1, self.side, self.side), np.uint8))

    def outcome(self, image: DecodedFile, probability: float, gate_score: float) -> Outcome:
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
    """A model loaded, checked and warm. Raises as `worker.inference.classifier.Classifier`."""
    rule = AgeRule(folder.ages, settings.outside_age == "reject")
    model = Classifier(folder, settings.batch_size, device)
    return ServedModel(model, settings.batch_size, rule, settings.sample_unflagged)


class ModelSlot:
    """Where the model at work is found. It may be relieved at any time: claims that hold it are finished by it, the
    next ones find its successor.

    What a relieved model held is given back: the process keeps 105 to 156 MiB more than with its first model, whether
    after one swap or after sixty (the shipped model, two cores), so it need not be started anew for this.
    """

    def __init__(self, served: ServedModel) -> None:
        self._current = served
        self._users: dict[ServedModel, int] = {served: 0}  # by how many claims
        self._lock = threading.Lock()

    @property
    def version(self) -> str:
        return self._current.version

    @contextmanager
    def use(self) -> Iterator[ServedModel]:
        """The model at work, which stays so for as long as this is held."""
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
        """The successor is at work from the next claim on."""
        with self._lock:
            self._current = successor
            self._users[successor] = 0
        self._close_unused()

    def close(self) -> None:
        self._current.close()

    def _close_unused(self) -> None:
        """End those that were relieved and that no claim holds any more."""
        with self._lock:
            unused = [one for one, users in self._users.items() if not users and one is not self._current]
            for one in unused:
                del self._users[one]
        for one in unused:
            one.close()
        if unused:
            del unused, one
            gc.collect()  # a network is full of cycles, and of weights
