"""Networks by name. Each takes uint8 gray films and holds its own preprocessing, so serving cannot drift from training.

Only layers of Keras itself that `pneumowatch.model.ALLOWED_LAYERS` names, whatever the backend.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

from pneumowatch.errors import TrainingError
from pneumowatch.logs import hush

LAST: Final = "evidence"  # the last layer with weights: its output is the logit, or the logits that are averaged


@dataclass(frozen=True)
class Network:
    side: int  # pixels of the square film that it takes
    parameters: int  # as published or first built; a layer changed by mistake shows here
    layers: Callable[[ModuleType, Any], Any]  # Keras and uint8 films (n, side, side, 1) to probabilities (n, 1)


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


def build(name: str) -> Any:
    """An uncompiled, untrained `keras.Model`: uint8 films (n, side, side, 1) to probabilities of pneumonia (n, 1)."""
    network, keras = find(name), load_keras()
    films = keras.Input((network.side, network.side, 1), dtype="uint8", name="films")
    model = keras.Model(films, network.layers(keras, films), name=name)
    if model.count_params() != network.parameters:
        raise TrainingError(f"{name} has {model.count_params():,} parameters instead of {network.parameters:,}.")
    return model


def _dense(keras: ModuleType, films: Any) -> Any:
    """The notebook's baseline: three small layers on the flat film."""
    layers = keras.layers
    x = layers.Flatten()(_colour(keras, films))
    for units in (16, 12, 6):
        x = layers.Dense(units, activation="relu")(x)
    return layers.Dense(1, activation="sigmoid", name=LAST)(x)


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
    return layers.Dense(1, activation="sigmoid", name=LAST)(x)


def _colour(keras: ModuleType, films: Any) -> Any:
    """0 to 1, thrice: the notebook's networks were made for colour files, whose three channels are equal."""
    x = keras.layers.Rescaling(1 / 255)(films)
    return keras.layers.Concatenate()([x, x, x])


def _compact(keras: ModuleType, films: Any) -> Any:
    """Ours: seven convolutions on a film that is first brought to one exposure, and an average over what they find.

    Ordinary convolutions at low resolution: on a CPU they are faster than separable ones at a higher one. The last one
    says for each of 10 x 10 places how much speaks for pneumonia; the probability is that of their mean, so the map
    is what moved the network, at no cost.
    """
    layers = keras.layers

    def convolved(x: Any, filters: int, size: int = 3, stride: int = 1) -> Any:
        x = layers.Conv2D(filters, size, strides=stride, padding="same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    x = layers.Rescaling(1 / 255)(films)
    x = layers.LayerNormalization(axis=(1, 2, 3), epsilon=1e-5, center=False, scale=False)(
        x
    )  # a film's own mean and contrast
    x = layers.ReLU()(convolved(x, 16, size=5, stride=2))
    for filters, twice in ((32, False), (64, True), (128, True)):
        x = layers.ReLU()(convolved(layers.MaxPooling2D(2)(x), filters))
        if twice:
            x = layers.ReLU()(layers.Add()([x, convolved(x, filters)]))
    x = layers.SpatialDropout2D(0.2)(x)
    x = layers.Conv2D(1, 1, name=LAST)(x)
    x = layers.GlobalAveragePooling2D()(x)
    return layers.Activation("sigmoid", name="probability")(x)


NETWORKS: Final = {
    "compact": Network(side=160, parameters=283_345, layers=_compact),
    "dense": Network(side=150, parameters=1_080_305, layers=_dense),
    "cnn": Network(side=150, parameters=3_453_121, layers=_cnn),
    "cnn_dropout": Network(side=150, parameters=3_453_121, layers=_cnn_dropout),
}
