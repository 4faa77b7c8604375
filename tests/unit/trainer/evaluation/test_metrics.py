import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.evaluation.metrics import (
    CalibrationBin,
    bootstrap_weights,
    calibration_curve,
    confusion_counts,
    estimate_metrics,
    expected_calibration_error,
    paired_differences,
    roc_curve,
    threshold_for,
    weighted_auc,
    weighted_metrics,
)

# two ill and three normal images; at 0.5 one ill image is missed and one normal image is flagged
LABELS = np.array([1, 1, 0, 0, 0], np.float32)
PROBABILITIES = np.array([0.9, 0.4, 0.6, 0.3, 0.1])
BY_HAND = {
    "accuracy": 3 / 5,
    "sensitivity": 1 / 2,
    "specificity": 2 / 3,
    "precision": 1 / 2,
    "f1": 1 / 2,
    "auc": 5 / 6,  # of six pairs only (0.4, 0.6) stands the wrong way round
    "brier": (0.01 + 0.36 + 0.36 + 0.09 + 0.01) / 5,
    "calibration_error": (0.1 + 0.6 + 0.6 + 0.3 + 0.1) / 5,  # each image has a bin of its own
}
PATIENTS = np.array(["a", "a", "b", "c", "d"])

scored = st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=30).map(
    lambda pairs: (np.array([ill for ill, _ in pairs], np.float32), np.array([p / 5 for _, p in pairs]))
)


def once(images: int) -> np.ndarray:
    return np.ones((1, images))


@pytest.mark.parametrize("name", BY_HAND)
def test_measures_by_hand(name: str) -> None:
    assert weighted_metrics(LABELS, PROBABILITIES, 0.5, once(5))[name][0] == pytest.approx(BY_HAND[name])


def test_an_image_at_the_threshold_is_flagged() -> None:
    assert weighted_metrics(LABELS, PROBABILITIES, 0.4, once(5))["sensitivity"][0] == 1
    assert weighted_metrics(LABELS, PROBABILITIES, 0.4 + 1e-9, once(5))["sensitivity"][0] == 0.5


@given(scored)
def test_auc_is_the_share_of_pairs_in_order(images: tuple[np.ndarray, np.ndarray]) -> None:
    labels, probabilities = images
    pairs = [
        1.0 if ill > normal else 0.5 if ill == normal else 0.0
        for ill in probabilities[labels == 1]
        for normal in probabilities[labels == 0]
    ]
    expected = np.mean(pairs) if pairs else np.nan
    assert weighted_auc(labels, probabilities, once(len(labels)))[0] == pytest.approx(expected, nan_ok=True)


@given(scored, st.data())
def test_a_weight_of_two_is_the_image_twice(images: tuple[np.ndarray, np.ndarray], data: st.DataObject) -> None:
    labels, probabilities = images
    times = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(labels), max_size=len(labels))))
    weighted = weighted_metrics(labels, probabilities, 0.5, times[np.newaxis].astype(float))
    repeated = weighted_metrics(np.repeat(labels, times), np.repeat(probabilities, times), 0.5, once(times.sum()))
    for name, value in weighted.items():
        assert value[0] == pytest.approx(repeated[name][0], nan_ok=True), name


def test_the_bootstrap_draws_patients_not_images() -> None:
    weights = bootstrap_weights(PATIENTS, 500)
    assert weights.shape == (500, 5)
    assert np.array_equal(weights[:, 0], weights[:, 1])  # the two images of patient a come and go together
    assert np.array_equal(weights[:, 1:].sum(axis=1), np.full(500, 4))  # four draws, of four patients
    assert np.array_equal(weights, bootstrap_weights(PATIENTS, 500))


def test_intervals_hold_the_value_and_narrow_with_more_patients() -> None:
    rng = np.random.default_rng(1)
    widths = []
    for patients in (50, 800):
        labels = rng.integers(0, 2, patients).astype(np.float32)
        probabilities = np.clip(labels * 0.3 + rng.uniform(0, 0.7, patients), 0, 1)
        for name, figure in estimate_metrics(labels, probabilities, np.arange(patients).astype(str), 0.5).items():
            assert figure.low <= figure.value <= figure.high, name
        accuracy = estimate_metrics(labels, probabilities, np.arange(patients).astype(str), 0.5)["accuracy"]
        widths.append(accuracy.high - accuracy.low)
    # the interval of a share p of n patients is about 4 sqrt(p (1 - p) / n) wide
    assert widths[1] == pytest.approx(widths[0] / 4, rel=0.35)


def test_what_is_undefined_is_nan() -> None:
    only_ill = estimate_metrics(
        np.ones(3, np.float32), np.array([0.2, 0.6, 0.7]), np.array(["a", "b", "c"]), 0.5, rounds=20
    )
    assert only_ill["sensitivity"].value == pytest.approx(2 / 3)
    assert np.isnan([only_ill["specificity"].value, only_ill["auc"].value, only_ill["auc"].high]).all()
    nothing = estimate_metrics(np.zeros(0, np.float32), np.zeros(0), np.zeros(0, np.str_), 0.5, rounds=20)
    assert all(np.isnan(figure.value) for figure in nothing.values())


@pytest.mark.parametrize(("target", "threshold"), [(1.0, 0.1), (0.8, 0.1), (0.0, 0.9)])
def test_of_few_images_none_may_be_missed(target: float, threshold: float) -> None:
    labels = np.array([0, 1, 1, 1, 1, 0])
    probabilities = np.array([0.95, 0.9, 0.8, 0.3, 0.1, 0.2])
    assert threshold_for(labels, probabilities, names(6), target) == threshold


def names(count: int) -> np.ndarray:
    return np.array([f"p{number}" for number in range(count)])


def test_the_threshold_reaches_its_target_on_others() -> None:
    """Over many samples of the same patients, a sample's threshold flags the targeted share of all, on average."""
    rng = np.random.default_rng(1)
    reached = []
    for _ in range(60):
        logits = rng.normal(2, 1.5, 300)
        threshold = threshold_for(np.ones(300), 1 / (1 + np.exp(-logits)), names(300), 0.95, rounds=200)
        others = rng.normal(2, 1.5, 4000)
        reached.append((1 / (1 + np.exp(-others)) >= threshold).mean())
    assert np.mean(reached) == pytest.approx(0.95, abs=0.005)


@given(scored, st.floats(0.01, 0.99))
def test_the_threshold_lies_among_the_ill_images(images: tuple[np.ndarray, np.ndarray], target: float) -> None:
    labels, probabilities = images
    labels[0] = 1
    ill = probabilities[labels == 1]
    threshold = threshold_for(labels, probabilities, names(len(labels)), target, rounds=50)
    assert ill.min() - 1e-6 <= threshold <= ill.max() + 1e-6


def test_images_of_one_patient_are_drawn_together() -> None:
    labels, probabilities = np.ones(40), np.concatenate([np.full(20, 0.1), np.linspace(0.8, 0.9, 20)])
    distinct = threshold_for(labels, probabilities, names(40), 0.4)
    together = threshold_for(labels, probabilities, np.array(["a"] * 20 + [f"b{n}" for n in range(20)]), 0.4)
    assert together < distinct


def test_confusion_by_hand() -> None:
    assert confusion_counts(LABELS, PROBABILITIES, 0.5) == {
        "true_positive": 1, "false_negative": 1, "false_positive": 1, "true_negative": 2,
    }  # fmt: skip


@given(scored)
def test_the_area_under_the_roc_curve_is_the_auc(images: tuple[np.ndarray, np.ndarray]) -> None:
    labels, probabilities = images
    alarms, hits = roc_curve(labels, probabilities)
    assert np.trapezoid(hits, alarms) == pytest.approx(
        weighted_auc(labels, probabilities, once(len(labels)))[0], nan_ok=True
    )


def test_calibration_by_hand() -> None:
    labels, probabilities = np.array([0, 1, 1, 1]), np.array([0.22, 0.28, 0.9, 1.0])
    low, high = calibration_curve(labels, probabilities)
    assert low == CalibrationBin(2, pytest.approx(0.25), 0.5)
    assert high == CalibrationBin(2, pytest.approx(0.95), 1.0)
    assert expected_calibration_error(labels, probabilities, once(4))[0] == pytest.approx((0.25 + 0.05) / 2)


def test_a_model_differs_from_itself_by_nothing_and_from_a_worse_one_by_something() -> None:
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, 300).astype(np.float32)
    good = np.clip(labels * 0.6 + rng.uniform(0, 0.4, 300), 0, 1)
    patients = np.arange(300).astype(str)
    same = paired_differences(labels, (good, good), patients, (0.5, 0.5), rounds=50)
    assert {(one.value, one.low, one.high) for one in same.values()} == {(0.0, 0.0, 0.0)}
    bad = rng.permutation(good)
    above = paired_differences(labels, (good, bad), patients, (0.5, 0.5), rounds=200)
    assert above["auc"].low > 0.3
    assert above["brier"].high < 0
    plain = [estimate_metrics(labels, said, patients, 0.5, rounds=20)["accuracy"].value for said in (good, bad)]
    assert above["accuracy"].value == pytest.approx(plain[0] - plain[1])


def test_differences_are_at_each_models_own_threshold() -> None:
    alike = paired_differences(LABELS, (PROBABILITIES, PROBABILITIES / 2), PATIENTS, (0.5, 0.25), rounds=20)
    assert alike["accuracy"].value == alike["auc"].value == 0
