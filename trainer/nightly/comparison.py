"""The gate of comparison: whether a challenger may take over, as a pure function of what the models say.

Two questions. On the frozen held-out patients of the base dataset: is it as good as the champion, and as the model that
ships with the project? And on films that readers judged since the last promotion, of patients that no model learned
from: is it better than the champion?

*As good* means at most `NONINFERIORITY_MARGIN` worse in sensitivity, at each model's own threshold, and in AUC. Where the films can
tell it, the lower end of the paired 95 % interval must be above -MARGIN. AUC they can tell. Sensitivity they mostly
cannot: of 430 ill films half a point is two films, and if only six are flagged by one model and not by the other, which
two equally good models easily come to, the interval reaches 1.1 points to either side. Asked for that proof, no
challenger would ever pass that is not much better, whatever it had learned. So where the interval's lower arm is longer
than the margin, the difference as measured must be within the margin: no more than two ill films of 430 lost on
balance. What many nights could lose in this way, a film at a time, the same comparison with the shipped model holds, as
that never moves. AUC and sensitivity guard each other: one cannot be bought with the threshold, nor the other without
the ranking.

*Better* means less surprised: a lower mean log loss, in at least `MIN_ROUNDS_BETTER` of the rounds of a bootstrap that draws
patients. On the few dozen films of a site the AUC is often 1 for both. Nor may it be worse there by more than the
margin: in sensitivity as measured, as every film lost is somebody's; in AUC surely, with its whole interval. On 80
films half a point of AUC is one film that slips past a handful of others; and a champion that ranks them all rightly,
as one may that flags every one of them, can only be equalled there.

A film that a model's own input gate turns away counts as one with probability 0: nobody is pointed to it.
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
MIN_IMAGES: Final = 15  # newer films of held-out patients; on fewer, chance decides
LOG_LOSS_CLIP: Final = 0.01  # probabilities count as no nearer to 0 or 1: one film must not outweigh a hundred
GUARDED_METRICS: Final = ("sensitivity", "auc")


@dataclass(frozen=True, eq=False)
class Scores:
    """What a model says of some films: probabilities (n,), its threshold, and which films its gate turns away (n,)."""

    probabilities: Floats
    threshold: float
    rejected: NDArray[np.bool_]

    @property
    def effective(self) -> Floats:
        return np.where(self.rejected, 0.0, self.probabilities)


@dataclass(frozen=True, eq=False)
class EvaluationSet:
    """Films with their labels (n,) and patients (n,), and what the models say of them; shipped is None where that one
    is the champion itself, or is not asked."""

    labels: Floats
    patients: NDArray[np.str_]
    challenger: Scores
    champion: Scores
    shipped: Scores | None = None


@dataclass(frozen=True)
class ComparisonResult:
    """Whether the challenger may take over, why, in sentences, and the figures, for JSON."""

    promoted: bool
    reasons: tuple[str, ...]
    figures: dict[str, Any]


def compare_models(frozen: EvaluationSet, newer: EvaluationSet) -> ComparisonResult:
    """Whether the challenger takes over.

    Args:
        frozen: the base dataset's films of held-out patients.
        newer: films judged since the last promotion, of held-out patients.
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
        True, ("It is as good on the frozen held-out patients, and better on the newer verdicts.",), figures
    )


def labels_contradict(labels: Floats, probabilities: Floats, patients: NDArray[np.str_]) -> bool:
    """Whether the verdicts say, surely, the contrary of what the champion says: its AUC on them is below one half, and
    so is its whole interval. Labels were exchanged, or films are shown inverted; nothing must be learned from that.

    Such verdicts would pass the comparison: a network can tell the films of one site from all others, learn the
    contrary for those alone, be as good as ever on the frozen patients, and better on the newer verdicts.
    """
    auc = metrics.estimate_metrics(labels, probabilities, patients, 0.5)["auc"]
    return bool(auc.high < 0.5)  # NaN, where one class alone was judged, is not


def _differences(evaluation_set: EvaluationSet, other: Scores) -> dict[str, Estimate]:
    probabilities = evaluation_set.challenger.effective, other.effective
    thresholds = evaluation_set.challenger.threshold, other.threshold
    return metrics.paired_differences(evaluation_set.labels, probabilities, evaluation_set.patients, thresholds)


def is_noninferior(difference: Estimate) -> bool:
    """Whether a measure is at most MARGIN worse, as far as the films can tell (see above)."""
    if difference.value - difference.low > NONINFERIORITY_MARGIN:
        return difference.value >= -NONINFERIORITY_MARGIN
    return difference.low > -NONINFERIORITY_MARGIN


def _inferiority_reasons(differences: dict[str, Estimate], name: str) -> Iterator[str]:
    for measure in GUARDED_METRICS:
        of = differences[measure]
        if np.isnan(of.value):
            yield f"The frozen held-out patients cannot tell its {measure}: they lack films of one class."
        elif not is_noninferior(of):
            yield (
                f"On the frozen held-out patients its {measure} is {_points(of.value)} the {name} model's, between "
                f"{_points(of.low)} and {_points(of.high)}; at most {100 * NONINFERIORITY_MARGIN:.1f} points below are allowed."
            )


def _gate_reasons(evaluation_set: EvaluationSet) -> Iterator[str]:
    own, other = evaluation_set.challenger.rejected.mean(), evaluation_set.champion.rejected.mean()
    if own > other + NONINFERIORITY_MARGIN:
        yield f"Its gate turns away {own:.1%} of the frozen held-out films, the champion's {other:.1%}."


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
            f"{abs(log_loss):.4f} {'below' if log_loss < 0 else 'above'} that one's, and below it in {sure:.1%} of the "
            f"rounds; {MIN_ROUNDS_BETTER:.0%} are asked for."
        )
    return objections + list(_newer_inferiority_reasons(differences)), figures


def _newer_inferiority_reasons(differences: dict[str, Estimate]) -> Iterator[str]:
    """NaN, where one class alone was judged, is not."""
    sensitivity, auc = (differences[measure] for measure in GUARDED_METRICS)
    allowed = f"at most {100 * NONINFERIORITY_MARGIN:.1f} points below are allowed."
    if sensitivity.value < -NONINFERIORITY_MARGIN:
        yield f"On the newer verdicts its sensitivity is {_points(sensitivity.value)} the champion's; {allowed}"
    if auc.high < -NONINFERIORITY_MARGIN:
        value, surely = _points(auc.value), _points(auc.high)
        yield f"On the newer verdicts its auc is {value} the champion's, surely {surely}; {allowed}"


def too_few(images: int) -> str:
    return f"Only {images} newer verdicts are of held-out patients; at least {MIN_IMAGES} can tell what is better."


def _log_loss_difference(evaluation_set: EvaluationSet) -> tuple[float, float]:
    """How far the challenger's mean log loss is above the champion's, and in which share of rounds it is below."""
    gap = _log_loss(evaluation_set.labels, evaluation_set.challenger.effective) - _log_loss(
        evaluation_set.labels, evaluation_set.champion.effective
    )
    weights = metrics.bootstrap_weights(evaluation_set.patients, metrics.BOOTSTRAP_ROUNDS)
    return float(gap.mean()), float((weights @ gap < 0).mean())


def _log_loss(labels: Floats, probabilities: Floats) -> Floats:
    right = np.where(labels == 1, probabilities, 1 - probabilities)
    return -np.log(np.clip(right, LOG_LOSS_CLIP, 1 - LOG_LOSS_CLIP))


def _points(value: float) -> str:
    return f"{100 * abs(value):.2f} points {'below' if value < 0 else 'above'}"


def _as_dict(estimate: Estimate) -> dict[str, float | None]:
    return {key: None if np.isnan(value) else round(value, 6) for key, value in vars(estimate).items()}
