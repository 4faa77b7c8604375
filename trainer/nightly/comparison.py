"""Compare a challenger with the champion and decide on promotion: pure functions of both models' scores.

There are two questions. On the frozen held-out patients of the base dataset: is the challenger as good as the champion,
and as the model that ships with the project? And on images that readers judged since the last promotion, of patients
that no model was trained on: is it better than the champion?

*As good* (non-inferior) means at most `NONINFERIORITY_MARGIN` worse in sensitivity, at each model's own threshold, and
in AUC. Where the images are enough to show it, the lower end of the paired 95 % interval must be above -MARGIN. For AUC
they are enough. For sensitivity they mostly are not: of 430 images with pneumonia, half a point is two images. If one
model flags only six that the other does not, which happens easily with two equally good models, the interval reaches
1.1 points to either side. If that proof were required, no challenger would pass that is not much better, whatever it
had learned. So where the interval's lower arm is longer than the margin, the measured difference must be within the
margin: a net loss of at most two images of 430. Many nights could each lose a little in this way. The same comparison
with the shipped model prevents that, because the shipped model never changes. AUC and sensitivity guard each other: a
lower threshold raises sensitivity but not AUC, and a better ranking counts only if it is not lost at the threshold.

*Better* means a lower mean log loss, in at least `MIN_ROUNDS_BETTER` of the rounds of a bootstrap that draws patients:
on the few dozen images of a site the AUC is often 1 for both. Nor may the challenger be worse there by more than the
margin. Sensitivity counts as measured, because every missed image is a patient. AUC counts as worse only with its whole
interval: on 80 images, half a point of AUC is one image that passes a handful of others, and a champion that ranks them
all correctly, as even one that flags all of them may, can only be equalled there.

An image that a model's own input gate rejects counts as one with probability 0: no reader is pointed to it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trainer.evaluation import metrics
from trainer.evaluation.metrics import Estimate, Floats

NONINFERIORITY_MARGIN: Final = 0.005
MIN_ROUNDS_BETTER: Final = 0.95
MIN_IMAGES: Final = 15  # newer images of held-out patients; with fewer, chance decides
LOG_LOSS_CLIP: Final = 0.01  # distance from 0 and 1 to which probabilities are clipped: one image must not outweigh 100
GUARDED_METRICS: Final = ("sensitivity", "auc")


@dataclass(frozen=True, eq=False)
class Scores:
    """A model's output for some images: probabilities (n,), its threshold, and which images its gate rejects (n,)."""

    probabilities: Floats
    threshold: float
    rejected: NDArray[np.bool_]

    @property
    def effective(self) -> Floats:
        return np.where(self.rejected, 0.0, self.probabilities)


@dataclass(frozen=True, eq=False)
class EvaluationSet:
    """Images by label (n,) and patient (n,), with the scores of each model.

    `shipped` is None where the shipped model is the champion itself, or is not compared.
    """

    labels: Floats
    patients: NDArray[np.str_]
    challenger: Scores
    champion: Scores
    shipped: Scores | None = None


@dataclass(frozen=True)
class ComparisonResult:
    """Whether the challenger is promoted, the reasons in sentences, and the figures for JSON."""

    promoted: bool
    reasons: tuple[str, ...]
    figures: dict[str, Any]


def compare_models(frozen: EvaluationSet, newer: EvaluationSet) -> ComparisonResult:
    """Decide whether the challenger is promoted.

    Args:
        frozen: the base dataset's images of held-out patients.
        newer: images judged since the last promotion, of held-out patients.
    """
    objections: list[str] = []
    figures: dict[str, Any] = {"frozen": {"images": len(frozen.labels)}, "newer": {"images": len(newer.labels)}}
    others = {"champion": frozen.champion} | ({"shipped": frozen.shipped} if frozen.shipped else {})
    for name, other in others.items():
        differences = _differences(frozen, other)
        figures["frozen"][name] = {measure: _as_dict(estimate) for measure, estimate in differences.items()}
        objections += _inferiority_reasons(differences, name)
    objections += _gate_reasons(frozen)
    found, figures["newer"]["champion"] = _superiority_reasons(newer)
    objections += found
    if objections:
        return ComparisonResult(False, tuple(objections), figures)
    return ComparisonResult(
        True, ("It is as good on the frozen held-out patients and better on the newer verdicts.",), figures
    )


def labels_contradict(labels: Floats, probabilities: Floats, patients: NDArray[np.str_]) -> bool:
    """Tell whether the verdicts surely contradict the champion.

    They do where its AUC on them is below one half, and so is the whole interval. Then labels were exchanged, or images
    are shown inverted, and nothing must be learned from them.

    Such verdicts would pass the comparison. A network can distinguish the images of one site from all others, learn the
    opposite for those alone, stay as good as ever on the frozen patients, and be better on the newer verdicts.
    """
    auc = metrics.estimate_metrics(labels, probabilities, patients, 0.5)["auc"]
    return bool(auc.high < 0.5)  # NaN, where only one class was judged, is not below


def _differences(evaluation_set: EvaluationSet, other: Scores) -> dict[str, Estimate]:
    probabilities = evaluation_set.challenger.effective, other.effective
    thresholds = evaluation_set.challenger.threshold, other.threshold
    return metrics.paired_differences(evaluation_set.labels, probabilities, evaluation_set.patients, thresholds)


def is_noninferior(difference: Estimate) -> bool:
    """Tell whether a measure is at most MARGIN worse, as far as the images can show it (see above)."""
    if difference.value - difference.low > NONINFERIORITY_MARGIN:
        return difference.value >= -NONINFERIORITY_MARGIN
    return difference.low > -NONINFERIORITY_MARGIN


def _inferiority_reasons(differences: dict[str, Estimate], name: str) -> Iterator[str]:
    for measure in GUARDED_METRICS:
        of = differences[measure]
        if np.isnan(of.value):
            yield f"Its {_name(measure)} on the frozen held-out patients is undefined: they lack images of a class."
        elif not is_noninferior(of):
            yield (
                f"On the frozen held-out patients its {_name(measure)} is {_points(of.value)} the {name} model's (95 % "
                f"interval: {_points(of.low)} to {_points(of.high)}); at most {100 * NONINFERIORITY_MARGIN:.1f} points "
                "below are allowed."
            )


def _gate_reasons(evaluation_set: EvaluationSet) -> Iterator[str]:
    own, other = evaluation_set.challenger.rejected.mean(), evaluation_set.champion.rejected.mean()
    if own > other + NONINFERIORITY_MARGIN:
        yield f"Its input gate rejects {own:.1%} of the frozen held-out images, the champion's {other:.1%}."


def _superiority_reasons(evaluation_set: EvaluationSet) -> tuple[list[str], dict[str, Any]]:
    if len(evaluation_set.labels) < MIN_IMAGES:
        return [too_few(len(evaluation_set.labels))], {}
    log_loss, sure = _log_loss_difference(evaluation_set)
    differences = _differences(evaluation_set, evaluation_set.champion)
    figures: dict[str, Any] = {"log_loss": log_loss, "rounds_better": sure}
    figures |= {measure: _as_dict(estimate) for measure, estimate in differences.items()}
    objections = []
    if not (log_loss < 0 and sure >= MIN_ROUNDS_BETTER):
        objections.append(
            f"On the newer verdicts of held-out patients it is not surely better than the champion: its log loss is "
            f"{abs(log_loss):.4f} {'below' if log_loss < 0 else 'above'} the champion's, and below it in {sure:.1%} of "
            f"the bootstrap rounds; {MIN_ROUNDS_BETTER:.0%} are required."
        )
    return objections + list(_newer_inferiority_reasons(differences)), figures


def _newer_inferiority_reasons(differences: dict[str, Estimate]) -> Iterator[str]:
    """Yield the reasons against promotion. NaN, where only one class was judged, is none."""
    sensitivity, auc = (differences[measure] for measure in GUARDED_METRICS)
    allowed = f"at most {100 * NONINFERIORITY_MARGIN:.1f} points below are allowed."
    if sensitivity.value < -NONINFERIORITY_MARGIN:
        yield f"On the newer verdicts its sensitivity is {_points(sensitivity.value)} the champion's; {allowed}"
    if auc.high < -NONINFERIORITY_MARGIN:
        value, surely = _points(auc.value), _points(auc.high)
        yield f"On the newer verdicts its AUC is {value} the champion's, surely {surely}; {allowed}"


def too_few(images: int) -> str:
    return f"Only {images} newer verdicts are of held-out patients; a comparison needs at least {MIN_IMAGES}."


def _log_loss_difference(evaluation_set: EvaluationSet) -> tuple[float, float]:
    """Return the challenger's mean log loss minus the champion's, and the share of rounds in which it is lower."""
    gap = _log_loss(evaluation_set.labels, evaluation_set.challenger.effective) - _log_loss(
        evaluation_set.labels, evaluation_set.champion.effective
    )
    weights = metrics.bootstrap_weights(evaluation_set.patients, metrics.BOOTSTRAP_ROUNDS)
    return float(gap.mean()), float((weights @ gap < 0).mean())


def _log_loss(labels: Floats, probabilities: Floats) -> Floats:
    right = np.where(labels == 1, probabilities, 1 - probabilities)
    return -np.log(np.clip(right, LOG_LOSS_CLIP, 1 - LOG_LOSS_CLIP))


def _name(measure: str) -> str:
    return "AUC" if measure == "auc" else measure


def _points(value: float) -> str:
    return f"{100 * abs(value):.2f} points {'below' if value < 0 else 'above'}"


def _as_dict(estimate: Estimate) -> dict[str, float | None]:
    return {key: None if np.isnan(value) else round(value, 6) for key, value in vars(estimate).items()}
