"""Metrics of a model: pure functions of labels, probabilities and patients.

Every metric takes weights of shape (rounds, n), how often each image counts in each round, and gives one value per
round. Weights of one give the plain value, those of a bootstrap its spread.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

PROBABILITY_EPSILON: Final = 1e-7  # probabilities are clipped to this distance from 0 and 1
SHARE_EPSILON: Final = 1e-12  # tolerance where shares are compared
BOOTSTRAP_ROUNDS: Final = 1000
CONFIDENCE: Final = 0.95
CALIBRATION_BINS: Final = 10  # of the calibration curve, equally wide
BOOTSTRAP_SEED: Final = 1  # of the bootstrap: the same images give the same intervals


@dataclass(frozen=True)
class Estimate:
    """A metric with its interval; all three are NaN where it is undefined (a specificity without normal images)."""

    value: float
    low: float
    high: float


def threshold_for(
    labels: Floats,
    probabilities: Floats,
    patients: NDArray[np.str_],
    target_sensitivity: float,
    rounds: int = BOOTSTRAP_ROUNDS,
) -> float:
    """Choose the threshold that flags `target_sensitivity` of the images with pneumonia, for patients like these.

    At least one label is 1. The highest threshold that reaches the target on exactly these images depends on one of
    them, and the gap to the next may be wide. So it is chosen in each of many bootstrap draws of the patients, and the
    mean of the logits is taken (bagging: Breiman, 1996; of a quantile: Harrell and Davis, 1982). Where the target
    allows not even one of these images to be missed, they are too few for that: the threshold is then the highest that
    flags them all.
    """
    ill = labels == 1
    order = np.argsort(probabilities[ill])[::-1]
    ranked = np.clip(probabilities[ill][order].astype(np.float64), PROBABILITY_EPSILON, 1 - PROBABILITY_EPSILON)
    plain = _highest(np.ones((1, len(ranked))), target_sensitivity)
    if target_sensitivity <= 0 or len(ranked) * (1 - target_sensitivity) < 1:
        return float(probabilities[ill][order][plain[0]])
    weights = bootstrap_weights(patients[ill], rounds)[:, order]
    logits = np.log(ranked / (1 - ranked))[_highest(weights, target_sensitivity)]
    return float(1 / (1 + np.exp(-logits.mean())))


def _highest(weights: Floats, target: float) -> NDArray[np.intp]:
    """Find for each round the first image at which the target share is reached.

    `weights`: (rounds, n), of images in order of falling probability.
    """
    sensitivity = np.cumsum(weights, axis=1) / weights.sum(axis=1, keepdims=True)
    found: NDArray[np.intp] = np.argmax(sensitivity >= target - SHARE_EPSILON, axis=1)
    return found


def estimate_metrics(
    labels: Floats, probabilities: Floats, patients: NDArray[np.str_], threshold: float, rounds: int = BOOTSTRAP_ROUNDS
) -> dict[str, Estimate]:
    """Estimate each metric with a percentile bootstrap interval.

    The bootstrap resamples patients, because images of one patient are alike.
    """
    values = weighted_metrics(labels, probabilities, threshold, np.ones((1, len(labels))))
    spread = weighted_metrics(labels, probabilities, threshold, bootstrap_weights(patients, rounds))
    return {name: _estimate(float(value[0]), spread[name]) for name, value in values.items()}


def bootstrap_weights(patients: NDArray[np.str_], rounds: int, seed: int = BOOTSTRAP_SEED) -> Floats:
    """Draw weights (rounds, n): how often each image's patient was drawn.

    Each round draws as many patients as there are.
    """
    names, patient = np.unique(patients, return_inverse=True)
    if not len(names):
        return np.zeros((rounds, 0))
    draws = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=rounds)
    return draws[:, patient].astype(np.float64)


def paired_differences(
    labels: Floats,
    probabilities: tuple[Floats, Floats],
    patients: NDArray[np.str_],
    thresholds: tuple[float, float],
    rounds: int = BOOTSTRAP_ROUNDS,
) -> dict[str, Estimate]:
    """Compute each metric of the first model minus that of the second, on the same images.

    The bootstrap is paired: it draws the same patients for both.
    """
    weights = np.ones((1, len(labels))), bootstrap_weights(patients, rounds)
    (plain, spread), (other_plain, other_spread) = (
        [weighted_metrics(labels, probability, threshold, each) for each in weights]
        for probability, threshold in zip(probabilities, thresholds, strict=True)
    )
    return {
        name: _estimate(float(plain[name][0] - other_plain[name][0]), spread[name] - other_spread[name])
        for name in plain
    }


def confusion_counts(labels: Floats, probabilities: Floats, threshold: float) -> dict[str, int]:
    """Count images by label and by flag."""
    ill, flagged = labels == 1, probabilities >= threshold
    return {
        "true_positive": int((ill & flagged).sum()),
        "false_negative": int((ill & ~flagged).sum()),
        "false_positive": int((~ill & flagged).sum()),
        "true_negative": int((~ill & ~flagged).sum()),
    }


def roc_curve(labels: Floats, probabilities: Floats) -> tuple[Floats, Floats]:
    """Compute false positive rate and sensitivity at each distinct threshold, from none flagged to all; (k,) each."""
    order = np.argsort(-probabilities, kind="stable")
    ends = np.append(
        np.flatnonzero(np.diff(probabilities[order])), len(order) - 1
    )  # equal probabilities are flagged together
    ill = np.concatenate([[0], np.cumsum(labels[order] == 1)[ends]])
    normal = np.concatenate([[0], np.cumsum(labels[order] == 0)[ends]])
    with np.errstate(invalid="ignore"):
        return normal / normal[-1], ill / ill[-1]


@dataclass(frozen=True)
class CalibrationBin:
    """Images with probabilities in one tenth of 0..1: their number, mean probability and share with pneumonia."""

    images: int
    probability: float
    positive_share: float


def calibration_curve(labels: Floats, probabilities: Floats) -> list[CalibrationBin]:
    """Compute the bins that hold images, from low to high."""
    number = _bins(probabilities)
    members = [number == one for one in np.unique(number)]
    return [CalibrationBin(int(of.sum()), float(probabilities[of].mean()), float(labels[of].mean())) for of in members]


def _bins(probabilities: Floats) -> NDArray[np.int64]:
    return np.minimum((probabilities * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)


def expected_calibration_error(labels: Floats, probabilities: Floats, weights: Floats) -> Floats:
    """Compute the expected calibration error (Naeini et al., 2015); (rounds,).

    It is the distance of a bin's mean probability from its share with pneumonia, averaged over images.
    """
    belongs = _bins(probabilities)[:, np.newaxis] == np.arange(CALIBRATION_BINS)
    gaps = weights @ ((probabilities - labels)[:, np.newaxis] * belongs)
    return np.abs(gaps).sum(axis=1) / weights.sum(axis=1)


def weighted_metrics(labels: Floats, probabilities: Floats, threshold: float, weights: Floats) -> dict[str, Floats]:
    """Compute all metrics, each of shape (rounds,).

    They are accuracy, sensitivity, specificity, precision, F1, AUC, Brier score and expected calibration error.
    """
    ill, flagged = labels == 1, probabilities >= threshold
    hits, misses = weights @ (ill & flagged), weights @ (ill & ~flagged)
    alarms, passes = weights @ (~ill & flagged), weights @ (~ill & ~flagged)
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: undefined in that round
        return {
            "accuracy": (hits + passes) / (hits + misses + alarms + passes),
            "sensitivity": hits / (hits + misses),
            "specificity": passes / (alarms + passes),
            "precision": hits / (hits + alarms),
            "f1": 2 * hits / (2 * hits + misses + alarms),
            "auc": weighted_auc(labels, probabilities, weights),
            "brier": weights @ (probabilities - labels) ** 2 / weights.sum(axis=1),
            "calibration_error": expected_calibration_error(labels, probabilities, weights),
        }


def weighted_auc(labels: Floats, probabilities: Floats, weights: Floats) -> Floats:
    """Compute the AUC (Mann-Whitney); (rounds,).

    It is how often the probability of an image with pneumonia is above a normal one's; ties count half.
    """
    if not len(labels):
        return np.full(len(weights), np.nan)
    order = np.argsort(probabilities)
    levels = np.flatnonzero(np.diff(probabilities[order], prepend=-np.inf))  # where each distinct probability begins
    ill = np.add.reduceat(weights[:, order] * (labels[order] == 1), levels, axis=1)
    normal = np.add.reduceat(weights[:, order] * (labels[order] == 0), levels, axis=1)
    below = np.cumsum(normal, axis=1) - normal / 2
    with np.errstate(invalid="ignore"):
        return (ill * below).sum(axis=1) / (ill.sum(axis=1) * normal.sum(axis=1))


def _estimate(value: float, spread: Floats) -> Estimate:
    defined = spread[np.isfinite(spread)]
    if np.isnan(value) or not len(defined):
        return Estimate(np.nan, np.nan, np.nan)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    # resampled images are a little worse calibrated than all of them: that interval may lie above its value
    return Estimate(value, min(float(low), value), max(float(high), value))
