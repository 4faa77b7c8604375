"""Networks by name.

Each takes uint8 gray images and contains its own preprocessing, so serving cannot drift from training. Only layers of
Keras itself that `pneumowatch.model_folder.ALLOWED_LAYERS` lists, on any backend.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

import numpy as np

from pneumowatch.errors import ModelError, TrainingError
from pneumowatch.logs import silence_stderr
from pneumowatch.model_folder import ModelFolder
from trainer import efficientnet_lite
from trainer.hyperparameters import PRECISIONS

FOLDED_SUFFIX: Final = "_folded"  # ends the name of a network without batch normalisations
LOGIT_LAYER: Final = "logits"  # the last layer with weights: its output is the logit, or logits to average


@dataclass(frozen=True)
class Network:
    side: int  # pixels of the square image that it takes
    parameters: int  # as published or first built; a layer changed by mistake shows here
    layers: Callable[..., Any]  # Keras and uint8 images (n, side, side, 1) to probabilities (n, 1)
    folded_parameters: int = 0  # parameters after `fold_batch_norms`; 0: there is nothing to fold
    imagenet: int | None = None  # number of the EfficientNet-Lite whose weights it starts with


def load_keras() -> ModuleType:
    """Import Keras late and return it: it takes seconds, and most users of this module never need it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it when it is loaded: no start-up messages
    with silence_stderr():
        import keras

    return keras


def get_network(name: str) -> Network:
    """Return a network by name. Raises TrainingError where there is none of that name."""
    if name not in NETWORKS:
        raise TrainingError(f"There is no network {name!r}; there is {', '.join(sorted(NETWORKS))}.")
    return NETWORKS[name]


def build(name: str, precision: str = "float32", fold: bool = False) -> Any:
    """Build an uncompiled, untrained `keras.Model`.

    It maps uint8 images (n, side, side, 1) to probabilities of pneumonia (n, 1).

    Args:
        precision: of the arithmetic between the normalised image and the logits; only a float32 network is saved.
        fold: without batch normalisations, as `fold_batch_norms` makes it.
    """
    network, keras = get_network(name), load_keras()
    images = keras.Input((network.side, network.side, 1), dtype="uint8", name="images")
    with _dtype_policy(keras, precision):
        output = network.layers(keras, images, fold=True) if fold else network.layers(keras, images)
        model = keras.Model(images, output, name=f"{name}{FOLDED_SUFFIX}" if fold else name)
    expected = network.folded_parameters if fold else network.parameters
    if model.count_params() != expected:
        raise TrainingError(f"{model.name} has {model.count_params():,} parameters instead of {expected:,}.")
    return model


def pretrained_network(name: str) -> Any:
    """Return the network that training starts from, or None where it starts from random weights.

    Raises TrainingError where the ImageNet weights are not installed.
    """
    which = get_network(name).imagenet
    if which is None:
        return None
    model = build(name)
    efficientnet_lite.load_imagenet_weights(model, which)
    return model


def fold_batch_norms(network: Any) -> Any:
    """Fold each batch normalisation into the convolution before it.

    The outputs stay the same to the last digits, for a seventh less time. A network that has none, or whose
    normalisations are not to be folded, is returned unchanged.
    """
    if network.name not in NETWORKS or not get_network(network.name).folded_parameters:
        return network
    bare = build(network.name, fold=True)
    layers = [layer for layer in network.layers if layer.weights]
    for target in (layer for layer in bare.layers if layer.weights):
        source = layers.pop(0)
        if source.name == LOGIT_LAYER:
            target.set_weights(source.get_weights())
            continue
        (kernel,), normal = source.get_weights(), layers.pop(0)
        gamma, beta, mean, variance = normal.get_weights()
        scale = gamma / np.sqrt(variance + normal.epsilon)
        target.set_weights([kernel * scale, beta - mean * scale])
    return bare


def choose_precision(requested: str) -> str:
    """Resolve `auto`: mixed_bfloat16 where Keras sees a GPU, else float32.

    Raises TrainingError for an unknown precision.
    """
    if requested not in PRECISIONS:
        raise TrainingError(f"There is no precision {requested!r}; there is {', '.join(PRECISIONS)}.")
    if requested != "auto":
        return requested
    devices = load_keras().distribution.list_devices()
    return "float32" if all(device.lower().startswith("cpu") for device in devices) else "mixed_bfloat16"


@contextmanager
def _dtype_policy(keras: ModuleType, precision: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def inference_model(network: Any) -> Any:
    """Return the model to save of a trained network.

    Where its last weights give a logit for each cell, that is a `keras.Model` with the outputs `probability` (n, 1) and
    `map` (n, h, w, 1), whose mean is the image's logit; else the network itself.
    """
    logits = network.get_layer(LOGIT_LAYER).output
    if len(logits.shape) != 4:
        return network
    outputs = {"probability": network.outputs[0], "map": logits}
    return load_keras().Model(network.inputs, outputs, name=network.name)


def load_inference_model(folder: ModelFolder) -> Any:
    """Verify a model folder and load its served `keras.Model`. Raises ModelError where it is damaged."""
    folder.verify()
    try:
        return load_keras().saving.load_model(folder.weights, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever a damaged file leads it to
        raise ModelError(f"{folder.weights} cannot be loaded: {type(error).__name__}.") from error


def restore_network(folder: ModelFolder) -> Any:
    """Restore the network of a served model, as `build` builds it, with its weights: a next training starts from it.

    A folded network stays folded: its normalisations are settled enough for the small steps of such a training.

    Raises:
        ModelError: the folder is damaged.
        TrainingError: its network is not the one that has that name now.
    """
    model, keras = load_inference_model(folder), load_keras()
    name = str(folder.card.get("network"))
    network = build(name, fold=bool(get_network(name).folded_parameters))
    # through the probability alone, which leaves out the weights of a gate
    output = model.output["probability"] if isinstance(model.output, dict) else model.output
    weights = keras.Model(model.inputs, output).get_weights()
    if [of.shape for of in weights] != [of.shape for of in network.get_weights()]:
        raise TrainingError(
            f"The model {folder.version} has another {name} network than this version of pneumowatch trains."
        )
    network.set_weights(weights)
    return network


def _dense(keras: ModuleType, images: Any) -> Any:
    """Build the notebook's baseline: three small layers on the flattened image."""
    layers = keras.layers
    x = layers.Flatten()(_colour(keras, images))
    for units in (16, 12, 6):
        x = layers.Dense(units, activation="relu")(x)
    return layers.Dense(1, activation="sigmoid", name=LOGIT_LAYER, dtype="float32")(x)


def _cnn(keras: ModuleType, images: Any) -> Any:
    """Build the notebook's second network: four convolutions, and nothing against overfitting."""
    return _notebook(keras, images, dropout=0.0)


def _cnn_dropout(keras: ModuleType, images: Any) -> Any:
    """Build the best network of the notebook this project started from, layer by layer."""
    return _notebook(keras, images, dropout=0.2)


def _notebook(keras: ModuleType, images: Any, dropout: float) -> Any:
    layers = keras.layers
    x = _colour(keras, images)
    for filters, drops in ((32, False), (64, False), (128, True), (128, True)):
        x = layers.Conv2D(filters, 3, activation="relu")(x)
        x = layers.MaxPooling2D(2)(x)
        if drops and dropout:
            x = layers.SpatialDropout2D(dropout)(x)
    x = layers.Flatten()(x)
    x = layers.Dense(512, activation="relu")(x)
    return layers.Dense(1, activation="sigmoid", name=LOGIT_LAYER, dtype="float32")(x)


def _colour(keras: ModuleType, images: Any) -> Any:
    """Scale to 0..1 and repeat three times: the notebook's networks took colour files with three equal channels."""
    x = keras.layers.Rescaling(1 / 255, dtype="float32")(images)
    return keras.layers.Concatenate()([x, x, x])


def _compact(keras: ModuleType, images: Any, fold: bool = False, width: int = 16) -> Any:
    """Build the project's own network: seven convolutions on a normalised image, and an average over their last map.

    Ordinary convolutions at low resolution: on a CPU they are faster than separable ones at a higher one. The last one
    gives a logit for each of 10 x 10 cells. The probability is that of their mean, so the map shows which regions moved
    the network, at no extra cost.
    """
    layers = keras.layers

    def convolved(x: Any, filters: int, size: int = 3, stride: int = 1) -> Any:
        x = layers.Conv2D(filters, size, strides=stride, padding="same", use_bias=fold)(x)
        return x if fold else layers.BatchNormalization()(x)

    x = layers.Rescaling(1 / 255, dtype="float32")(images)
    # removes the image's own mean and contrast
    x = layers.LayerNormalization(axis=(1, 2, 3), epsilon=1e-5, center=False, scale=False, dtype="float32")(x)
    x = layers.ReLU()(convolved(x, width, size=5, stride=2))
    for filters, twice in ((2 * width, False), (4 * width, True), (8 * width, True)):
        x = layers.ReLU()(convolved(layers.MaxPooling2D(2)(x), filters))
        if twice:
            x = layers.ReLU()(layers.Add()([x, convolved(x, filters)]))
    x = layers.SpatialDropout2D(0.2)(x)
    x = layers.Conv2D(1, 1, name=LOGIT_LAYER, dtype="float32")(x)
    x = layers.GlobalAveragePooling2D(dtype="float32")(x)
    return layers.Activation("sigmoid", name="probability", dtype="float32")(x)


def _wide(keras: ModuleType, images: Any) -> Any:
    """Build a teacher: the compact network, half as wide again."""
    return _compact(keras, images, width=24)


def _lite0(keras: ModuleType, images: Any) -> Any:
    return efficientnet_lite.build_layers(0, keras, images, LOGIT_LAYER)


def _lite1(keras: ModuleType, images: Any) -> Any:
    return efficientnet_lite.build_layers(1, keras, images, LOGIT_LAYER)


NETWORKS: Final = {
    "compact": Network(side=160, parameters=283_345, layers=_compact, folded_parameters=282_049),
    "dense": Network(side=150, parameters=1_080_305, layers=_dense),
    "cnn": Network(side=150, parameters=3_453_121, layers=_cnn),
    "cnn_dropout": Network(side=150, parameters=3_453_121, layers=_cnn_dropout),
    "wide": Network(side=160, parameters=635_833, layers=_wide),
    "lite0": Network(side=192, parameters=3_413_729, layers=_lite0, imagenet=0),
    "lite1": Network(side=192, parameters=4_190_049, layers=_lite1, imagenet=1),
}
