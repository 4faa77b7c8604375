"""Drift of a source: the population stability index against a model's reference."""

from math import log

import numpy as np
import pytest

from db.health.drift import MIN_DRIFT_IMAGES, RecentPrediction, stability_index, stability_indexes
from trainer.evaluation.drift_reference import quantile_bins

RNG = np.random.default_rng(1)
REFERENCE = RNG.normal(size=500)
CARD = {"reference": {"images": 500, "gate_score": quantile_bins(REFERENCE), "probability": None}}


def predictions(values: np.ndarray, version: str = "model-1") -> list[RecentPrediction]:
    return [RecentPrediction(0.5, float(value), 120.0, False, version) for value in values]


def test_the_index_is_the_one_of_the_textbooks() -> None:
    now, then = (0.25, 0.75), (0.5, 0.5)
    expected = sum((new - old) * log(new / old) for new, old in zip(now, then, strict=True))
    assert stability_index([0.0], then, [-1.0, 1.0, 2.0, 0.0]) == pytest.approx(expected)  # on the edge: the upper bin


def test_what_is_like_the_reference_stays_below_and_what_has_moved_is_beyond_the_alert() -> None:
    assert stability_indexes(predictions(RNG.normal(size=200)), "model-1", CARD)["gate_score"] < 0.2
    assert stability_indexes(predictions(RNG.normal(1, size=200)), "model-1", CARD)["gate_score"] > 0.5


def test_where_nothing_can_be_measured_nothing_is_said() -> None:
    enough = RNG.normal(size=MIN_DRIFT_IMAGES)
    assert set(stability_indexes(predictions(enough), "model-1", CARD)) == {"gate_score"}
    assert stability_indexes(predictions(enough[1:]), "model-1", CARD) == {}  # too few
    assert stability_indexes(predictions(enough, "model-0"), "model-1", CARD) == {}  # another model's
    assert stability_indexes(predictions(enough), "model-1", {}) == {}  # a card of an earlier version
    unsaid = [one._replace(gate_score=None) for one in predictions(enough)]
    assert stability_indexes(unsaid, "model-1", CARD) == {}


def test_a_bin_that_is_empty_now_gives_a_number() -> None:
    reference = quantile_bins(REFERENCE)
    assert 1 < stability_index(reference["edges"], reference["shares"], [9.0] * 200) < 10


@pytest.mark.parametrize("values", [[0.0] * 50, [0.0] * 30 + [1.0] * 20, list(range(5)), [0.25]])
def test_bins_hold_every_value_and_none_is_empty(values: list[float]) -> None:
    found = quantile_bins(np.array(values, np.float32))
    assert len(found["shares"]) == len(found["edges"]) + 1
    assert sum(found["shares"]) == pytest.approx(1)
    assert min(found["shares"]) > 0 or len(values) == 1
    assert stability_index(found["edges"], found["shares"], values) == pytest.approx(0, abs=1e-6)
