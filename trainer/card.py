"""A model's card: what it is for, what it was taught, and how good it is, with its limits."""

import math
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

from pneumowatch import __version__
from trainer.dataset import SPLIT_RULE, Dataset
from trainer.evaluate import CONFIDENCE, ROUNDS, Figure
from trainer.knobs import Knobs
from trainer.networks import load_keras

REDUCTION: Final = (
    "pneumowatch.film.decode: 8-bit gray (colour by ITU-R 601-2 luminance, more than 8 bits scaled from the film's own "
    "minimum and maximum), squashed to the square with bilinear filtering; scaling to 0..1 is inside the model"
)
SOURCE: Final = {
    "source": "Kermany, Zhang, Goldbaum: Labeled Optical Coherence Tomography (OCT) and Chest X-Ray Images for "
    "Classification, Mendeley Data; described in Kermany et al., Cell 172 (2018)",
    "doi": "10.17632/rscbjbr9sj",
    "licence": "CC BY 4.0",
}
INTENDED_USE: Final = "Research and triage: which films a reader looks at first. No medical device."
INTERVALS: Final = (
    f"{CONFIDENCE:.0%} percentile bootstrap over patients, {ROUNDS} rounds; it has no width where no film was wrong, "
    "which on few films says little"
)
LIMITS: Final = (
    "Knows frontal films of children aged one to five, from one hospital (Guangzhou Women and Children's Medical "
    "Center); how it reads other hospitals, adults and lateral views is unknown.",
    "An earlier run of the network cnn_dropout on this set had a specificity of 18 % (accuracy 69.4 %, AUC 0.906) on "
    "the set's own test split of 624 films: it called most healthy children there ill. This run was not tried there.",
    "A film that is not flagged is not cleared.",
)


def describe(
    model: Any, knobs: Knobs, data: Dataset, threshold: float, metrics: dict[str, dict[str, Figure]]
) -> dict[str, Any]:
    """The card without `version` and `sha256`, which the store adds when it has written the model."""
    return {
        "network": knobs.network,
        "parameters": model.count_params(),
        "input": {"side": data.side, "channels": 1, "dtype": "uint8", "reduction": REDUCTION},
        "threshold": _threshold(threshold, knobs.target_sensitivity),
        "intended_use": INTENDED_USE,
        "limits": list(LIMITS),
        "data": {
            **SOURCE,
            "fingerprint": data.fingerprint,
            "counts": data.counts(),
            "left_out": len(data.left_out),
        },
        "split_rule": SPLIT_RULE,
        "training": asdict(knobs),
        "metrics": {split: {name: _plain(value) for name, value in of.items()} for split, of in metrics.items()},
        "intervals": INTERVALS,
        "code_version": __version__,
        "keras_version": load_keras().__version__,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _threshold(value: float, target: float) -> dict[str, Any]:
    sentence = f"The highest one that flags at least {target:.1%} of the validation patients' films with pneumonia."
    return {"value": value, "chosen": sentence, "target_sensitivity": target}


def _plain(figure: Figure) -> dict[str, float | None]:
    return {key: None if math.isnan(value) else round(value, 6) for key, value in asdict(figure).items()}
