"""Networks by name. Each takes uint8 gray films and holds its own preprocessing, so serving cannot drift from training.

Only layers of Keras itself that `pneumowatch.model.ALLOWED_LAYERS` names, whatever the backend.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

import numpy as np

from pneumowatch.errors import ModelError, TrainingError
from pneumowatch.logs import hush
from pneumowatch.model import ModelFolder
from trainer import lite
from trainer.knobs import PRECISIONS

FOLDED: Final = "_folded"  # behind the name of a network without normalisations
LAST: Final = "evidence"  # the last layer with weights: its output is the logit, or the logits that are averaged


@dataclass(frozen=True)
class Network:
    side: int  # pixels of the square film that it takes
    parameters: int  # as published or first built; a layer changed by mistake shows here
    layers: Callable[..., Any]  # Keras and uint8 films (n, side, side, 1) to probabilities (n, 1)
    folded: int = 0  # parameters once its normalisations are part of its convolutions (`folded`); 0: it has none
    imagenet: int | None = None  # which EfficientNet-Lite's weights it begins with


def load_keras() -> ModuleType:
    """Keras, imported late: it takes seconds, and most of what imports this module never needs it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it when it is loaded: no start-up chatter
    with hush():
        import keras

    return keras


def find(name: str) -> Network:
    """Raises TrainingError where no network bears that name."""
    if name not in NETWORKS:
        raise TrainingError(f"There is no network {name!r}; there is {', '.join(sorted(NETWORKS))}.")
    return NETWORKS[name]


def build(name: str, precision: str = "float32", folds: bool = False) -> Any:
    """An uncompiled, untrained `keras.Model`: uint8 films (n, side, side, 1) to probabilities of pneumonia (n, 1).

    Args:
        precision: of the arithmetic between the film's exposure and its logits; only a float32 one is saved.
        folds: without batch normalisations, as `folded` makes it.
    """
    network, keras = find(name), load_keras()
    films = keras.Input((network.side, network.side, 1), dtype="uint8", name="films")
    with _computing(keras, precision):
        said = network.layers(keras, films, folds=True) if folds else network.layers(keras, films)
        model = keras.Model(films, said, name=f"{name}{FOLDED}" if folds else name)
    expected = network.folded if folds else network.parameters
    if model.count_params() != expected:
        raise TrainingError(f"{model.name} has {model.count_params():,} parameters instead of {expected:,}.")
    return model


def begin(name: str) -> Any:
    """The network that a training begins with where it does not begin with random weights, else None.

    Raises TrainingError where the weights of ImageNet are not installed.
    """
    which = find(name).imagenet
    if which is None:
        return None
    model = build(name)
    lite.begin_with_imagenet(model, which)
    return model


def folded(network: Any) -> Any:
    """The same network with each batch normalisation made part of the convolution before it: what it says is the same
    to the last digits, for a seventh less time. A network that has none, or whose are not to be folded, is given back.
    """
    if network.name not in NETWORKS or not find(network.name).folded:
        return network
    bare = build(network.name, folds=True)
    layers = [layer for layer in network.layers if layer.weights]
    for target in (layer for layer in bare.layers if layer.weights):
        source = layers.pop(0)
        if source.name == LAST:
            target.set_weights(source.get_weights())
            continue
        (kernel,), normal = source.get_weights(), layers.pop(0)
        gamma, beta, mean, variance = normal.get_weights()
        scale = gamma / np.sqrt(variance + normal.epsilon)
        target.set_weights([kernel * scale, beta - mean * scale])
    return bare


def choose_precision(asked: str) -> str:
    """What `auto` means here: mixed_bfloat16 where Keras sees a GPU, else float32. Raises TrainingError for what is no
    precision."""
    if asked not in PRECISIONS:
        raise TrainingError(f"There is no precision {asked!r}; there is {', '.join(PRECISIONS)}.")
    if asked != "auto":
        return asked
    devices = load_keras().distribution.list_devices()
    return "float32" if all(device.lower().startswith("cpu") for device in devices) else "mixed_bfloat16"


@contextmanager
def _computing(keras: ModuleType, precision: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def served(network: Any) -> Any:
    """What is saved of a trained network: where its last weights give a logit for each place, a `keras.Model` with the
    outputs `probability` (n, 1) and `map` (n, h, w, 1), whose mean is the film's logit; else the network itself."""
    evidence = network.get_layer(LAST).output
    if len(evidence.shape) != 4:
        return network
    outputs = {"probability": network.outputs[0], "map": evidence}
    return load_keras().Model(network.inputs, outputs, name=network.name)


def load(folder: ModelFolder) -> Any:
    """The served `keras.Model` of a folder, verified. Raises ModelError where it is damaged."""
    folder.verify()
    try:
        return load_keras().saving.load_model(folder.weights, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever a damaged file leads it to
        raise ModelError(f"{folder.weights} cannot be loaded: {type(error).__name__}.") from error


def restore(folder: ModelFolder) -> Any:
    """The network that a served model was made of, as `build` builds it and with its weights: where a next training
    starts. One that was folded stays so: for the small steps of such a training, its normalisations are settled.

    Raises:
        ModelError: the folder is damaged.
        TrainingError: its network is not the one that bears that name now.
    """
    model, keras = load(folder), load_keras()
    name = str(folder.card.get("network"))
    network = build(name, folds=bool(find(name).folded))
    # by way of the probability alone, so that the weights of a gate beside it are not among them
    said = model.output["probability"] if isinstance(model.output, dict) else model.output
    weights = keras.Model(model.inputs, said).get_weights()
    if [of.shape for of in weights] != [of.shape for of in network.get_weights()]:
        raise TrainingError(f"The model {folder.version} is of another {name} than this version of pneumowatch trains.")
    network.set_weights(weights)
    return network


def _dense(keras: ModuleType, films: Any) -> Any:
    """The notebook's baseline: three small layers on the flat film."""
    layers = keras.layers
    x = layers.Flatten()(_colour(keras, films))
    for units in (16, 12, 6):
        x = layers.Dense(units, activation="relu")(x)
    return layers.Dense(1, activation="sigmoid", name=LAST, dtype="float32")(x)


def _cnn(keras: ModuleType, films: Any) -> Any:
    """The notebook's second network: four convolutions, and nothing against learning by heart."""
    return _notebook(keras, films, dropout=0.0)


def _cnn_dropout(keras: ModuleType, films: Any) -> Any:
    """The best network of the notebook this project started from, layer by layer."""
    return _notebook(keras, films, dropout=0.2)


def _notebook(keras: ModuleType, films: Any, dropout: float) -> Any:
    layers = keras.layers
    x = _colour(keras, films)
    for filters, drops in ((32, False), (64, False), (128, True), (128, True)):
        x = layers.Conv2D(filters, 3, activation="relu")(x)
        x = layers.MaxPooling2D(2)(x)
        if drops and dropout:
            x = layers.SpatialDropout2D(dropout)(x)
    x = layers.Flatten()(x)
    x = layers.Dense(512, activation="relu")(x)
    return layers.Dense(1, activation="sigmoid", name=LAST, dtype="float32")(x)


def _colour(keras: ModuleType, films: Any) -> Any:
    """0 to 1, thrice: the notebook's networks were made for colour files, whose three channels are equal."""
    x = keras.layers.Rescaling(1 / 255, dtype="float32")(films)
    return keras.layers.Concatenate()([x, x, x])


def _compact(keras: ModuleType, films: Any, folds: bool = False, width: int = 16) -> Any:
    """Ours: seven convolutions on a film that is first brought to one exposure, and an average over what they find.

    Ordinary convolutions at low resolution: on a CPU they are faster than separable ones at a higher one. The last one
    says for each of 10 x 10 places how much speaks for pneumonia; the probability is that of their mean, so the map
    is what moved the network, at no cost.
    """
    layers = keras.layers

    def convolved(x: Any, filters: int, size: int = 3, stride: int = 1) -> Any:
        x = layers.Conv2D(filters, size, strides=stride, padding="same", use_bias=folds)(x)
        return x if folds else layers.BatchNormalization()(x)

    x = layers.Rescaling(1 / 255, dtype="float32")(films)
    # a film's own mean and contrast
    x = layers.LayerNormalization(axis=(1, 2, 3), epsilon=1e-5, center=False, scale=False, dtype="float32")(x)
    x = layers.ReLU()(convolved(x, width, size=5, stride=2))
    for filters, twice in ((2 * width, False), (4 * width, True), (8 * width, True)):
        x = layers.ReLU()(convolved(layers.MaxPooling2D(2)(x), filters))
        if twice:
            x = layers.ReLU()(layers.Add()([x, convolved(x, filters)]))
    x = layers.SpatialDropout2D(0.2)(x)
    x = layers.Conv2D(1, 1, name=LAST, dtype="float32")(x)
    x = layers.GlobalAveragePooling2D(dtype="float32")(x)
    return layers.Activation("sigmoid", name="probability", dtype="float32")(x)


def _wide(keras: ModuleType, films: Any) -> Any:
    """A teacher: ours, half as wide again."""
    return _compact(keras, films, width=24)


def _lite0(keras: ModuleType, films: Any) -> Any:
    return lite.layers(0, keras, films, LAST)


def _lite1(keras: ModuleType, films: Any) -> Any:
    return lite.layers(1, keras, films, LAST)


NETWORKS: Final = {
    "compact": Network(side=160, parameters=283_345, layers=_compact, folded=282_049),
    "dense": Network(side=150, parameters=1_080_305, layers=_dense),
    "cnn": Network(side=150, parameters=3_453_121, layers=_cnn),
    "cnn_dropout": Network(side=150, parameters=3_453_121, layers=_cnn_dropout),
    "wide": Network(side=160, parameters=635_833, layers=_wide),
    "lite0": Network(side=192, parameters=3_413_729, layers=_lite0, imagenet=0),
    "lite1": Network(side=192, parameters=4_190_049, layers=_lite1, imagenet=1),
}
