"""Model folders for tests that need some network: tiny, untrained, and quick to load."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from pneumowatch.model_folder import CARD, REFERENCE, WEIGHTS, ModelFolder
from support.phantoms import phantom

SIDE = 64
BRIGHT = 200  # mean gray level beyond which the gated network takes an image for something else


def tiny_network(side: int = SIDE) -> Any:
    import keras

    keras.utils.set_random_seed(7)
    layers = keras.layers
    network = keras.Sequential(
        [
            keras.Input((side, side, 1), dtype="uint8"),
            layers.Rescaling(1 / 255),
            layers.Conv2D(8, 5, strides=4, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    kernel, bias = network.layers[-1].get_weights()
    # so that images differ in the first decimals of their probabilities, not in the fifth
    network.layers[-1].set_weights([kernel * 20, bias])
    return network


def gated_network(side: int = SIDE) -> Any:
    """Build a network with every output that a served model may have: probability, map (15 x 15) and gate score."""
    import keras

    keras.utils.set_random_seed(8)
    layers = keras.layers
    images = keras.Input((side, side, 1), dtype="uint8")
    gray = layers.Rescaling(1 / 255)(images)
    features = layers.Conv2D(8, 5, strides=4, activation="relu")(gray)
    where = layers.Conv2D(1, 1, name="logits")(features)
    logit = layers.GlobalAveragePooling2D()(where)
    gate_score = layers.Dense(1, use_bias=False, name="strange")(layers.GlobalAveragePooling2D()(gray))
    outputs = {"probability": layers.Activation("sigmoid")(logit), "map": where, "gate_score": gate_score}
    network = keras.Model(images, outputs)
    logits = network.get_layer("logits")
    kernel, bias = logits.get_weights()
    logits.set_weights([kernel * 20, bias])
    # so that some images are flagged and some are not
    logits.set_weights([kernel * 20, bias - network.predict(reference_images(side), verbose=0)["map"].mean()])
    network.get_layer("strange").set_weights([np.full((1, 1), 255 / BRIGHT, np.float32)])
    return network


def reference_images(side: int = SIDE, count: int = 3) -> np.ndarray:
    return np.stack([phantom(seed, bool(seed % 2), side, side) for seed in range(count)])[..., None]


def write_model(folder: Path, network: Any, side: int = SIDE, **card: Any) -> ModelFolder:
    """Save a network as a model folder whose card and reference agree with it."""
    folder.mkdir(parents=True)
    network.save(folder / WEIGHTS)
    images = reference_images(side)
    said = network.predict(images, verbose=0)
    probabilities = said["probability"] if isinstance(said, dict) else said
    np.savez(folder / REFERENCE, images=images, probabilities=probabilities[:, 0])
    write_card(folder, side, **card)
    return ModelFolder.read(folder)


def write_card(folder: Path, side: int = SIDE, **changed: Any) -> None:
    card = {
        "version": "standin-1",
        "sha256": hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
        "input": {"side": side},
        "threshold": {"value": 0.5},
    }
    (folder / CARD).write_text(json.dumps({**card, **changed}), "utf-8")
