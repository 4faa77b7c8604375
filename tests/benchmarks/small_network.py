"""Write a small separable network as a model folder, to measure the cost of an image with a cheap network.

It is untrained, so its probabilities mean nothing. It takes about a quarter of the seed network's time.

    python tests/benchmarks/small_network.py FOLDER
"""

import argparse
import hashlib
import json
import os
from pathlib import Path

import numpy as np

from pneumowatch.logs import silence_stderr
from pneumowatch.model_folder import CARD, REFERENCE, WEIGHTS

SIDE = 150
WIDTHS = (64, 96, 128, 192)  # filters of the separable layers; the image is halved before each


def write(folder: Path) -> Path:
    """Build the network and write it as the trainer would. Return `folder`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when TensorFlow is loaded
    with silence_stderr():
        import keras

    keras.utils.set_random_seed(1)
    layers = keras.layers
    images = keras.Input((SIDE, SIDE, 1), dtype="uint8")
    x = layers.Rescaling(1 / 255)(images)
    x = layers.Conv2D(16, 3, strides=2, activation="relu")(x)
    for width in WIDTHS:
        x = layers.SeparableConv2D(width, 3, activation="relu")(x)
        x = layers.MaxPooling2D()(x)
    x = layers.GlobalAveragePooling2D()(x)
    network = keras.Model(images, layers.Dense(1, activation="sigmoid")(x))
    folder.mkdir(parents=True, exist_ok=True)
    network.save(folder / WEIGHTS)
    _describe(folder, network)
    return folder


def _describe(folder: Path, network) -> None:
    images = np.random.default_rng(1).integers(0, 256, (8, SIDE, SIDE, 1), dtype=np.uint8)
    np.savez(folder / REFERENCE, images=images, probabilities=np.asarray(network(images))[:, 0])
    card = {
        "version": "small-stand-in",
        "sha256": hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
        "input": {"side": SIDE},
        "threshold": {"value": 0.5},
    }
    (folder / CARD).write_text(json.dumps(card), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    print(write(parser.parse_args().folder))


if __name__ == "__main__":
    main()
