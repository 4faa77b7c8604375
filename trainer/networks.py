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


def _cnn_dropout(keras: ModuleType, films: Any) -> Any:
    """The best network of the notebook this project started from, layer by layer."""
    layers = keras.layers
    x = layers.Rescaling(1 / 255)(films)
    x = layers.Concatenate()([x, x, x])  # it was made for colour files, whose three channels are equal
    for filters, dropout in ((32, 0.0), (64, 0.0), (128, 0.2), (128, 0.2)):
        x = layers.Conv2D(filters, 3, activation="relu")(x)
        x = layers.MaxPooling2D(2)(x)
        if dropout:
            x = layers.SpatialDropout2D(dropout)(x)
    x = layers.Flatten()(x)
    x = layers.Dense(512, activation="relu")(x)
    return layers.Dense(1, activation="sigmoid", name="probability")(x)


NETWORKS: Final = {
    "cnn_dropout": Network(side=150, parameters=3_453_121, layers=_cnn_dropout),
}
