"""Build a model's card: intended use, training data, metrics and limits."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pneumowatch import __version__
from pneumowatch.errors import TrainingError
from trainer import networks
from trainer.dataset import SPLIT_RULE, Dataset
from trainer.evaluation.metrics import BOOTSTRAP_ROUNDS, CONFIDENCE, Estimate
from trainer.hyperparameters import Hyperparameters

REDUCTION: Final = (
    "pneumowatch.imaging.reader.read_pixels: 8-bit gray (colour by ITU-R 601-2 luminance, more than 8 bits scaled from "
    "the image's own minimum and maximum), squashed to the square with bilinear filtering; scaling to 0..1 is inside "
    "the model"
)
UNSTATED: Final = {
    "data": {"source": "not stated"},
    "limits": ["It is not stated which images the model was trained on. Its performance on other images is unknown."],
}
INTENDED_USE: Final = "Research and triage: which images a reader looks at first. Not a medical device."
INTERVALS: Final = (
    f"{CONFIDENCE:.0%} percentile bootstrap over patients, {BOOTSTRAP_ROUNDS} rounds; an interval has no width where "
    "no image was misclassified, which says little when there are few images"
)
LIMIT_OF_ALL: Final = "An image that is not flagged is not cleared."


def read_data_description(file: Path | None) -> dict[str, Any]:
    """Read what people know of a training set and a program cannot see.

    A JSON file: `data` ({source, doi, licence, ...}), `limits` (sentences) and, where known, `ages_years`: the
    patients' youngest and oldest age in completed years. Without a file the card says that nothing is stated.

    Raises TrainingError where the file is not of that form.
    """
    if file is None:
        return UNSTATED
    try:
        description = json.loads(file.read_text("utf-8"))
        return {
            "data": dict(description["data"]),
            "limits": [str(limit) for limit in description["limits"]],
            "ages_years": _ages(description.get("ages_years")),
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{file} is not a description of training data; trainer/kermany.json shows the form ({error!r})."
        ) from None


def _ages(value: Any) -> list[int] | None:
    if value is None:
        return None
    youngest, oldest = (int(age) for age in value)
    if not 0 <= youngest <= oldest:
        raise ValueError(f"ages from {youngest} to {oldest}")
    return [youngest, oldest]


def build_card(
    served: Any,
    hyperparameters: Hyperparameters,
    data: Dataset,
    description: dict[str, Any],
    threshold: float,
    metrics: dict[str, dict[str, Estimate]],
    history: Sequence[dict[str, float]] = (),
) -> dict[str, Any]:
    """Build the card without `version` and `sha256`, which are added when the model file is written."""
    network = networks.get_network(hyperparameters.network)
    return {
        "network": hyperparameters.network,
        "parameters": network.folded_parameters or network.parameters,  # without a gate's
        "input": {"side": data.side, "channels": 1, "dtype": "uint8", "reduction": REDUCTION},
        "outputs": _outputs(served),
        "threshold": _threshold(threshold, hyperparameters.target_sensitivity),
        "intended_use": INTENDED_USE,
        "ages_years": description.get("ages_years"),
        "limits": [*description["limits"], LIMIT_OF_ALL],
        "data": {
            **description["data"],
            "fingerprint": data.fingerprint,
            "counts": data.counts(),
            "duplicates": data.duplicates(),
            "patients": data.patient_rule.card_entry(data.keyed),
            "left_out": len(data.left_out),
        },
        "split_rule": SPLIT_RULE,
        "training": asdict(hyperparameters),
        "precision": networks.choose_precision(hyperparameters.precision),
        "history": [{name: _rounded(value) for name, value in at.items()} for at in history],
        "kept_epoch": _kept_epoch(history, hyperparameters.patience),
        "metrics": {split: {name: _as_dict(value) for name, value in of.items()} for split, of in metrics.items()},
        "intervals": INTERVALS,
        "code_version": __version__,
        "keras_version": networks.load_keras().__version__,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _outputs(served: Any) -> dict[str, Any]:
    """Describe the served network's other outputs: the cells of its map, and whether it has a gate.

    A network that gives only the probability has neither.
    """
    given = served.output if isinstance(served.output, dict) else {}
    places = list(given["map"].shape[1:3]) if "map" in given else None
    return {"map": places, "gate": "gate_score" in given}


def _kept_epoch(history: Sequence[dict[str, float]], patience: int) -> int | None:
    """Return the last epoch, or with patience the best one; None without a history."""
    if not history:
        return None
    if not patience:
        return int(history[-1]["epoch"])
    return int(min(history, key=lambda at: at["validation_loss"])["epoch"])


def data_description(card: dict[str, Any]) -> dict[str, Any]:
    """Return a card's description of its data, as `build_card` takes it, for a model trained on from this one."""
    own = ("fingerprint", "counts", "duplicates", "left_out", "patients")
    stated = {key: value for key, value in card.get("data", UNSTATED["data"]).items() if key not in own}
    limits = [limit for limit in card.get("limits", UNSTATED["limits"]) if limit != LIMIT_OF_ALL]
    return {"data": stated, "limits": limits, "ages_years": card.get("ages_years")}


def _threshold(value: float, target: float) -> dict[str, Any]:
    sentence = (
        f"Chosen to flag {target:.1%} of the images with pneumonia, for patients like the validation patients: the "
        "average of the thresholds that do so in many random resamples of these patients."
    )
    return {"value": value, "chosen": sentence, "target_sensitivity": target}


def _as_dict(estimate: Estimate) -> dict[str, float | None]:
    return {key: _rounded(value) for key, value in asdict(estimate).items()}


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)
