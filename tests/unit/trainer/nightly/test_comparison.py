"""Comparison of challenger and champion: what may be promoted, and what must not."""

from dataclasses import replace

import numpy as np
import pytest

from trainer.evaluation.metrics import Estimate
from trainer.nightly import comparison
from trainer.nightly.comparison import EvaluationSet, Scores, compare_models, is_noninferior, labels_contradict

FROZEN, NEWER = 700, 40


def opinion(said: np.ndarray) -> Scores:
    return Scores(said, 0.5, np.zeros(len(said), np.bool_))


def exam(
    images: int, wrong: int = 0, champion_wrong: int = 0, sure: float = 0.95, champion_sure: float = 0.95
) -> EvaluationSet:
    """Return an evaluation on so many patients, alternately ill and well; each model misses the first ill ones."""
    labels = np.arange(images) % 2 == 0

    def reads(errors: int, certainty: float) -> Scores:
        # spread a little, as no two images are alike
        right = certainty - np.random.default_rng(images).uniform(0, 0.1, images)
        right[np.flatnonzero(labels)[:errors]] = 0.4
        return opinion(np.where(labels, right, 1 - right))

    patients = np.array([f"p{number}" for number in range(images)])
    return EvaluationSet(labels.astype(np.float32), patients, reads(wrong, sure), reads(champion_wrong, champion_sure))


BETTER = exam(NEWER, wrong=0, champion_wrong=6, sure=0.95, champion_sure=0.9)


def test_as_good_and_better_takes_over() -> None:
    found = compare_models(exam(FROZEN, 3, 3), BETTER)
    assert found.promoted
    assert found.figures["newer"]["champion"]["log_loss"] < 0
    assert found.figures["frozen"]["champion"]["sensitivity"] == {"value": 0, "low": 0, "high": 0}


def test_an_image_lost_for_another_does_no_harm_many_do() -> None:
    assert compare_models(exam(FROZEN, 4, 3), BETTER).promoted  # one of 350: 0.3 points
    found = compare_models(exam(FROZEN, 8, 3), BETTER)  # 1.4 points
    assert not found.promoted
    assert "sensitivity is 1.43 points below the champion model's" in found.reasons[0]


def test_it_is_held_against_the_shipped_model_as_well() -> None:
    """It catches losses of one image at a time over many nights."""
    frozen = exam(FROZEN, 8, 7)
    assert compare_models(frozen, BETTER).promoted
    found = compare_models(replace(frozen, shipped=exam(FROZEN, 0).challenger), BETTER)
    assert not found.promoted
    assert "the shipped model's" in found.reasons[0]
    assert set(found.figures["frozen"]) == {"images", "champion", "shipped"}


@pytest.mark.parametrize("newer", [exam(NEWER, 3, 3), exam(NEWER, 4, 0)], ids=["the same", "worse"])
def test_what_is_not_better_does_not(newer: EvaluationSet) -> None:
    found = compare_models(exam(FROZEN, 3, 3), newer)
    assert not found.promoted
    assert any("not surely better" in reason for reason in found.reasons)


def test_better_on_the_average_but_blind_for_more_ill_images_does_not() -> None:
    newer = exam(NEWER, 0, 0, sure=0.99, champion_sure=0.7)
    said = newer.challenger.probabilities.copy()
    said[0] = 0.45
    found = compare_models(exam(FROZEN), replace(newer, challenger=opinion(said)))
    assert not found.promoted
    assert all("sensitivity" in reason or "AUC" in reason for reason in found.reasons)


def ranking(*others: float) -> EvaluationSet:
    """Return a champion and a challenger.

    The champion calls every image ill and ranks them all rightly. The challenger calls the healthy ones
    healthy, but for some to which it gives `others`.
    """
    newer = exam(80)
    champion = np.where(newer.labels, 0.99, 0.9) + np.linspace(0, 0.005, 80)
    challenger = np.where(newer.labels, 0.9, 0.1) + np.linspace(0, 0.005, 80)
    challenger[1 : 2 * len(others) : 2] = others
    return replace(newer, challenger=opinion(challenger), champion=opinion(champion))


def test_an_image_that_slips_past_others_does_not_outweigh_all_the_rest() -> None:
    newer = ranking(0.9025)  # one of forty healthy images ranks before about twenty of the ill ones
    found = compare_models(exam(FROZEN), newer)
    assert found.promoted, found.reasons
    assert -0.02 < found.figures["newer"]["champion"]["auc"]["value"] < -comparison.NONINFERIORITY_MARGIN


def test_a_ranking_that_is_surely_worse_is_no_better() -> None:
    found = compare_models(exam(FROZEN), ranking(*[0.92] * 10))
    assert [("AUC" in reason, "surely" in reason) for reason in found.reasons] == [(True, True)]
    assert not found.promoted


def test_on_few_newer_images_nothing_is_decided() -> None:
    found = compare_models(exam(FROZEN), exam(comparison.MIN_IMAGES - 1, 0, 5))
    assert not found.promoted
    assert "14 newer verdicts" in found.reasons[0]
    assert not compare_models(exam(FROZEN), exam(0)).promoted


def test_a_gate_that_turns_images_away_is_no_way_to_be_better() -> None:
    frozen = exam(FROZEN, 3, 3)
    away = np.zeros(FROZEN, np.bool_)
    away[1:20:2] = True  # ten healthy ones
    found = compare_models(replace(frozen, challenger=replace(frozen.challenger, rejected=away)), BETTER)
    assert [reason for reason in found.reasons if "gate" in reason]
    away = np.zeros(FROZEN, np.bool_)
    away[100:120:2] = True  # ten ill ones
    found = compare_models(replace(frozen, challenger=replace(frozen.challenger, rejected=away)), BETTER)
    assert "sensitivity" in found.reasons[0]


def test_without_ill_images_nothing_can_be_told() -> None:
    frozen = exam(FROZEN)
    found = compare_models(replace(frozen, labels=np.zeros(FROZEN, np.float32)), BETTER)
    assert not found.promoted
    assert "is undefined" in found.reasons[0]


@pytest.mark.parametrize(
    ("value", "low", "fine"),
    [
        (0.0, -0.004, True),  # enough images to decide, and it is as good
        (-0.003, -0.006, False),  # they can tell, and it may be worse
        (0.0, -0.011, True),  # they cannot tell: as measured
        (-0.0047, -0.014, True),
        (-0.007, -0.016, False),
        (0.02, 0.001, True),
        (0.02, -0.004, True),
    ],
)
def test_the_margin(value: float, low: float, fine: bool) -> None:
    assert is_noninferior(Estimate(value, low, value + 0.01)) is fine


def test_verdicts_that_say_the_contrary() -> None:
    patients = np.array([f"p{number}" for number in range(40)])
    labels = (np.arange(40) % 2).astype(np.float32)
    said = np.where(labels == 1, 0.9, 0.1) + np.random.default_rng(1).uniform(-0.1, 0.1, 40)
    assert labels_contradict(1 - labels, said, patients)
    assert not labels_contradict(labels, said, patients)
    shuffled = np.random.default_rng(2).permutation(labels)
    assert not labels_contradict(shuffled, said, patients)  # a reader who disagrees is no reader who exchanges labels
    assert not labels_contradict(np.ones(40, np.float32), said, patients)
