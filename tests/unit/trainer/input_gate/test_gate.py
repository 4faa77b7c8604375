from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.phantoms import phantoms
from support.tiny_models import write_card

from pneumowatch.model_folder import WEIGHTS, ModelFolder
from trainer import networks
from trainer.input_gate import gate, ood_samples
from trainer.input_gate.gate import FitBudget, InputGate

SIDE = 64
EFFORT = FitBudget(images=256, ood_samples=500, phantoms=4, epochs=10, repeats=13)


def images(first: int, count: int) -> np.ndarray:
    """Phantoms as chest x-rays."""
    return phantoms(first, count, SIDE)


@pytest.fixture(scope="module")
def network() -> Any:
    """The compact network for small images, untrained: features of random convolutions suffice to tell kinds apart."""
    keras = networks.load_keras()
    keras.utils.set_random_seed(5)
    taken = keras.Input((SIDE, SIDE, 1), dtype="uint8", name="images")
    return keras.Model(taken, networks.get_network("compact").layers(keras, taken), name="compact")


@pytest.fixture(scope="module")
def fitted(network: Any) -> InputGate:
    found = gate.fit_gate(network, images(1, 40), images(100, 20), budget=EFFORT)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def served(network: Any, fitted: InputGate) -> Any:
    return gate.gated_inference_model(network, fitted)


def gate_score(model: Any, pictures: np.ndarray) -> np.ndarray:
    return model.predict(pictures, verbose=0)["gate_score"][:, 0]


@pytest.mark.slow
def test_images_of_its_kind_pass(served: Any) -> None:
    assert (gate_score(served, images(200, 40)) <= 1).mean() >= 0.95


@pytest.mark.slow
def test_ood_samples_of_kinds_it_never_saw_do_not(served: Any) -> None:
    unseen = [kind for kind in ood_samples.KINDS if kind.held_out and kind.draw]
    pictures = np.concatenate([ood_samples.draw_samples(kind, 8, images(1, 4), seed=9) for kind in unseen])
    assert (
        gate_score(served, pictures) > 1
    ).mean() >= 0.8  # a few hundred pictures and no training: far from what ships


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quarter turn", "inverted", "two by two"])
def test_corrupted_images_do_not(served: Any, name: str) -> None:
    kind = next(kind for kind in ood_samples.KINDS if kind.name == name)
    assert (gate_score(served, ood_samples.draw_samples(kind, 20, images(200, 20), seed=9)) > 1).mean() >= 0.9


@pytest.mark.slow
def test_either_judge_can_refuse_alone(network: Any, fitted: InputGate) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (4, SIDE, SIDE, 1), np.uint8)
    blind_head = replace(fitted, head=fitted.head.scaled(0.0, 1e9))
    nothing_far = replace(fitted.distance, weights=0 * fitted.distance.weights)
    assert (gate_score(gate.gated_inference_model(network, blind_head), noise) > 1).all()
    assert (gate_score(gate.gated_inference_model(network, replace(fitted, distance=nothing_far)), noise) > 1).all()


@pytest.mark.slow
def test_what_the_layers_say_is_what_was_fitted(network: Any, served: Any, fitted: InputGate) -> None:
    some = np.concatenate([images(300, 4), ood_samples.draw_mixture(20, images(1, 4), seed=4)])
    keras = networks.load_keras()
    features = keras.Model(served.inputs, served.get_layer("gate_features").output).predict(some, verbose=0)
    near = fitted.distance.standardize(features)
    expected = np.maximum(fitted.distance.squared(near), fitted.head.logits(near))
    np.testing.assert_allclose(gate_score(served, some), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_gate_score_of_an_image_is_the_same_alone_and_among_others(served: Any) -> None:
    some = np.concatenate([images(300, 6), ood_samples.draw_mixture(20, images(1, 4), seed=4)])
    together = gate_score(served, some)
    single = np.concatenate([gate_score(served, some[at : at + 1]) for at in range(len(some))])
    np.testing.assert_allclose(single, together, atol=1e-5)


@pytest.mark.slow
def test_probability_and_map_are_the_networks_own(network: Any, served: Any) -> None:
    some = images(300, 4)
    said = served.predict(some, verbose=0)
    np.testing.assert_array_equal(said["probability"], network.predict(some, verbose=0))
    logits = said["map"].mean(axis=(1, 2, 3))
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), said["probability"][:, 0], atol=1e-6)


@pytest.mark.slow
def test_it_is_verified_and_loaded_in_safe_mode(served: Any, tmp_path: Path) -> None:
    served.save(tmp_path / WEIGHTS)
    write_card(tmp_path, SIDE)
    loaded = networks.load_inference_model(ModelFolder.read(tmp_path))
    some = images(300, 3)
    np.testing.assert_allclose(gate_score(loaded, some), gate_score(served, some), atol=1e-6)


@pytest.mark.slow
def test_the_same_seed_fits_the_same_gate(network: Any) -> None:
    small = FitBudget(images=64, ood_samples=60, phantoms=2, epochs=1, repeats=8)
    once, again = (gate.fit_gate(network, images(1, 8), images(9, 4), seed=3, budget=small) for _ in range(2))
    assert once is not None
    assert again is not None
    np.testing.assert_allclose(once.head.hidden[0], again.head.hidden[0], atol=1e-5)
    np.testing.assert_allclose(once.distance.weights, again.distance.weights, rtol=1e-4)


def test_a_network_without_convolutions_has_none() -> None:
    network = networks.build("dense")
    side = networks.get_network("dense").side
    assert (
        gate.fit_gate(network, np.zeros((1, side, side, 1), np.uint8), np.zeros((1, side, side, 1), np.uint8)) is None
    )
    assert gate.gated_inference_model(network) is network


@pytest.mark.parametrize("folds", [False, True])
def test_the_compact_network_is_looked_through_folded_or_not(folds: bool) -> None:
    network = networks.build("compact", fold=folds)
    assert [tap.shape[1:] for tap in gate._taps(networks.load_keras(), network)] == [(20, 20, 64), (10, 10, 128)]


def test_the_notebooks_network_is_looked_through() -> None:
    network = networks.build("cnn_dropout")
    assert [tap.shape[1:] for tap in gate._taps(networks.load_keras(), network)] == [(34, 34, 128), (15, 15, 128)]
    assert gate._features(networks.load_keras(), network).shape == (None, 16 * 16 + (4 * 4 + 3 * 3) * 128)
