"""What served models say of the films they are compared on."""

import numpy as np

from pneumowatch.model import ModelFolder
from trainer import networks
from trainer.comparison import Exam, Opinion
from trainer.dataset import Examples
from trainer.pupil import PREDICT_BATCH


def ask(folder: ModelFolder, examples: Examples) -> Opinion:
    """As whoever loads the folder hears it. Raises ModelError where it is damaged."""
    if not len(examples):
        return Opinion(np.zeros(0), folder.threshold, np.zeros(0, np.bool_))
    said = networks.load(folder).predict(examples.pixels, batch_size=PREDICT_BATCH, verbose=0)
    outputs = said if isinstance(said, dict) else {"probability": said}
    probability = outputs["probability"][:, 0].astype(np.float64)
    strangeness = outputs["strangeness"][:, 0] if "strangeness" in outputs else np.zeros(len(examples))
    return Opinion(probability, folder.threshold, strangeness > 1)


def examine(examples: Examples, challenger: ModelFolder, champion: ModelFolder, shipped: Opinion | None = None) -> Exam:
    return Exam(examples.labels, examples.patients, ask(challenger, examples), ask(champion, examples), shipped)
