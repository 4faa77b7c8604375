"""Score images with the served models that are compared."""

import numpy as np

from pneumowatch.model_folder import ModelFolder
from trainer import networks
from trainer.dataset import Examples
from trainer.nightly.comparison import EvaluationSet, Scores
from trainer.student import PREDICT_BATCH


def score_images(folder: ModelFolder, examples: Examples) -> Scores:
    """Score images with the model as it is loaded from its folder. Raises ModelError where it is damaged."""
    if not len(examples):
        return Scores(np.zeros(0), folder.threshold, np.zeros(0, np.bool_))
    predicted = networks.load_inference_model(folder).predict(examples.pixels, batch_size=PREDICT_BATCH, verbose=0)
    outputs = predicted if isinstance(predicted, dict) else {"probability": predicted}
    probability = outputs["probability"][:, 0].astype(np.float64)
    gate_score = outputs["gate_score"][:, 0] if "gate_score" in outputs else np.zeros(len(examples))
    return Scores(probability, folder.threshold, gate_score > 1)


def score_both(
    examples: Examples, challenger: ModelFolder, champion: ModelFolder, shipped: Scores | None = None
) -> EvaluationSet:
    return EvaluationSet(
        examples.labels,
        examples.patients,
        score_images(challenger, examples),
        score_images(champion, examples),
        shipped,
    )
