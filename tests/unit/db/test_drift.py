"""Drift of a source: the population stability index against a model's reference."""

from math import log

import numpy as np
import pytest

from db.drift import FEWEST, Reading, index, measured
from trainer.reference import bins

RNG = np.random.default_rng(1)
REFERENCE = RNG.normal(size=500)
CARD = {"reference": {"films": 500, "strangeness": bins(REFERENCE), "probability": None}}


def readings(values: np.ndarray, version: str = "model-1") -> list[Reading]:
    return [Reading(0.5, float(value), 120.0, False, version) for value in values]


def test_the_index_is_the_one_of_the_textbooks() -> None:
    now, then = (0.25, 0.75), (0.5, 0.5)
    expected = sum((new - old) * log(new / old) for new, old in zip(now, then, strict=True))
    assert index([0.0], then, [-1.0, 1.0, 2.0, 0.0]) == pytest.approx(expected)  # on the edge: the upper bin


def test_what_is_like_the_reference_stays_below_and_what_has_moved_is_beyond_the_alert() -> None:
    assert measured(readings(RNG.normal(size=200)), "model-1", CARD)["strangeness"] < 0.2
    assert measured(readings(RNG.normal(1, size=200)), "model-1", CARD)["strangeness"] > 0.5


def test_where_nothing_can_be_measured_nothing_is_said() -> None:
    enough = RNG.normal(size=FEWEST)
    assert set(measured(readings(enough), "model-1", CARD)) == {"strangeness"}
    assert measured(readings(enough[1:]), "model-1", CARD) == {}  # too few
    assert measured(readings(enough, "model-0"), "model-1", CARD) == {}  # another model's
    assert measured(readings(enough), "model-1", {}) == {}  # a card of an earlier version
    unsaid = [one._replace(strangeness=None) for one in readings(enough)]
    assert measured(unsaid, "model-1", CARD) == {}


def test_a_bin_that_is_empty_now_gives_a_number() -> None:
    reference = bins(REFERENCE)
    assert 1 < index(reference["edges"], reference["shares"], [9.0] * 200) < 10


@pytest.mark.parametrize("values", [[0.0] * 50, [0.0] * 30 + [1.0] * 20, list(range(5)), [0.25]])
def test_bins_hold_every_value_and_none_is_empty(values: list[float]) -> None:
    found = bins(np.array(values, np.float32))
    assert len(found["shares"]) == len(found["edges"]) + 1
    assert sum(found["shares"]) == pytest.approx(1)
    assert min(found["shares"]) > 0 or len(values) == 1
    assert index(found["edges"], found["shares"], values) == pytest.approx(0, abs=1e-6)
