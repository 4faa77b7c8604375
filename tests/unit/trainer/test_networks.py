import subprocess
import sys

import numpy as np
import pytest

from pneumowatch.errors import TrainingError
from pneumowatch.model_folder import ALLOWED_LAYERS
from trainer import networks
from trainer.networks import NETWORKS, Network


def test_importing_the_networks_does_not_load_keras() -> None:
    code = (
        "import sys, trainer.networks, trainer.train; sys.exit('keras' in sys.modules or 'tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_the_seeds_network_layer_by_layer() -> None:
    model = networks.build("cnn_dropout")
    assert model.count_params() == 3_453_121
    assert [type(layer).__name__ for layer in model.layers] == [
        "InputLayer", "Rescaling", "Concatenate",
        "Conv2D", "MaxPooling2D",
        "Conv2D", "MaxPooling2D",
        "Conv2D", "MaxPooling2D", "SpatialDropout2D",
        "Conv2D", "MaxPooling2D", "SpatialDropout2D",
        "Flatten", "Dense", "Dense",
    ]  # fmt: skip
    convolutions = [layer for layer in model.layers if type(layer).__name__ == "Conv2D"]
    assert [layer.filters for layer in convolutions] == [32, 64, 128, 128]
    assert all((layer.kernel_size, layer.padding) == ((3, 3), "valid") for layer in convolutions)
    assert model.layers[-4].rate == 0.2
    assert model.layers[-1].activation.__name__ == "sigmoid"


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_takes_bytes_and_gives_probabilities(name: str) -> None:
    model, side = networks.build(name), NETWORKS[name].side
    assert model.inputs[0].dtype == "uint8"
    assert model.input_shape == (None, side, side, 1)
    images = np.random.default_rng(1).integers(0, 256, (2, side, side, 1), np.uint8)
    probabilities = model.predict(images, verbose=0)
    assert probabilities.shape == (2, 1)
    assert ((probabilities > 0) & (probabilities < 1)).all()
    assert {type(layer).__name__ for layer in model.layers} <= ALLOWED_LAYERS


def test_the_notebooks_other_networks() -> None:
    dense, cnn = networks.build("dense"), networks.build("cnn")
    assert [layer.units for layer in dense.layers if type(layer).__name__ == "Dense"] == [16, 12, 6, 1]
    assert cnn.count_params() == networks.build("cnn_dropout").count_params()
    assert "SpatialDropout2D" not in {type(layer).__name__ for layer in cnn.layers}


def test_the_compact_networks_map_is_what_its_probability_is_made_of() -> None:
    keras = networks.load_keras()
    model = networks.build("compact")
    evidence = keras.Model(model.inputs, model.get_layer(networks.LOGIT_LAYER).output)
    images = np.random.default_rng(1).integers(0, 256, (3, 160, 160, 1), np.uint8)
    where = evidence.predict(images, verbose=0)
    assert where.shape == (3, 10, 10, 1)
    expected = 1 / (1 + np.exp(-where.mean(axis=(1, 2, 3))))
    np.testing.assert_allclose(model.predict(images, verbose=0)[:, 0], expected, atol=1e-6)


def test_the_compact_network_looks_past_exposure() -> None:
    model = networks.build("compact")
    images = np.random.default_rng(1).integers(60, 120, (3, 160, 160, 1), np.uint8)
    brighter = (images.astype(int) * 2 - 20).astype(np.uint8)
    np.testing.assert_allclose(model.predict(images, verbose=0), model.predict(brighter, verbose=0), atol=1e-3)


def test_the_preprocessing_is_inside() -> None:
    keras = networks.load_keras()
    model = networks.build("cnn_dropout")
    scaled = keras.Model(model.inputs, model.layers[2].output)
    images = np.array([0, 51, 255], np.uint8).reshape(3, 1, 1, 1) * np.ones((1, 150, 150, 1), np.uint8)
    output = scaled.predict(images, verbose=0)
    assert output.shape == (3, 150, 150, 3)
    assert output[:, 7, 7, :] == pytest.approx(np.array([[0] * 3, [0.2] * 3, [1] * 3]))


@pytest.mark.parametrize("name", NETWORKS)
def test_half_precision_computes_between_the_image_and_its_logit(name: str) -> None:
    keras = networks.load_keras()
    mixed, exact = networks.build(name, "mixed_bfloat16"), networks.build(name)
    assert keras.config.dtype_policy().name == "float32"  # as it was before
    assert {layer.dtype_policy.name for layer in exact.layers} == {"float32"}
    mixed.set_weights(exact.get_weights())
    assert {weights.dtype for weights in mixed.get_weights()} == {np.dtype(np.float32)}
    computed = {layer.name: layer.compute_dtype for layer in mixed.layers if layer.weights}
    assert computed.pop(networks.LOGIT_LAYER) == "float32"
    assert set(computed.values()) == {"bfloat16"}
    images = np.random.default_rng(1).integers(0, 256, (4, *mixed.input_shape[1:]), np.uint8)
    said = mixed.predict(images, verbose=0)
    assert said.dtype == np.float32
    np.testing.assert_allclose(said, exact.predict(images, verbose=0), atol=0.02)  # bfloat16 has three digits


def test_precision_is_chosen_by_the_machine_or_by_name() -> None:
    keras = networks.load_keras()
    gpu = any(not device.startswith("cpu") for device in keras.distribution.list_devices())
    assert networks.choose_precision("auto") == ("mixed_bfloat16" if gpu else "float32")
    assert networks.choose_precision("mixed_bfloat16") == "mixed_bfloat16"
    with pytest.raises(TrainingError, match=r"no precision 'float8'; there is auto, float32, mixed_bfloat16"):
        networks.choose_precision("float8")


def test_an_unknown_network_is_named_with_those_there_are() -> None:
    with pytest.raises(TrainingError, match=r"'resnet'; there is cnn, cnn_dropout, compact, dense, lite0, lite1, wide"):
        networks.build("resnet")


def test_a_changed_layer_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = Network(side=150, parameters=3_453_122, layers=NETWORKS["cnn_dropout"].layers)
    monkeypatch.setitem(NETWORKS, "cnn_dropout", changed)
    with pytest.raises(TrainingError, match="3,453,121 parameters instead of 3,453,122"):
        networks.build("cnn_dropout")


def test_folded_says_the_same_without_normalisations() -> None:
    rng = np.random.default_rng(1)
    network = networks.build("compact")
    for layer in network.layers:
        if type(layer).__name__ == "BatchNormalization":
            layer.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
    images = rng.integers(0, 256, (3, 160, 160, 1), dtype=np.uint8)
    folded = networks.fold_batch_norms(network)
    np.testing.assert_allclose(folded.predict(images, verbose=0), network.predict(images, verbose=0), atol=1e-6)
    assert not any(type(layer).__name__ == "BatchNormalization" for layer in folded.layers)
    assert networks.fold_batch_norms(folded) is folded
