"""Time the network alone by batch size: milliseconds a batch, images a second. No file is read or queued.

This runs on any Keras backend (KERAS_BACKEND) and device. A figure from a backend other than TensorFlow shows what a
GPU can do with the network, not what the pipeline does.

    python tests/benchmarks/network.py [--quick] [--json]
"""

import os
import statistics
import time

import numpy as np
from figures import Figure, run

from pneumowatch import settings
from pneumowatch.logs import silence_stderr
from pneumowatch.model_folder import champion_folder

BATCHES = (1, 8, 32, 64, 128, 256)
SECONDS, QUICK_SECONDS = 4.0, 0.2  # of each batch size


def measure(quick: bool) -> list[Figure]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when TensorFlow is loaded
    folder = champion_folder(settings.load_settings().models)
    with silence_stderr():
        import keras

        network = keras.saving.load_model(folder.weights, compile=False, safe_mode=True)
    where = f"{keras.backend.backend()}, {device(keras.backend.backend())}"
    found = []
    for size in BATCHES:
        seconds = batch_seconds(network, size, folder.side, QUICK_SECONDS if quick else SECONDS)
        what = f"network only ({where}), batches of {size}"
        found += [Figure(what, 1000 * seconds, "ms per batch"), Figure(f"{what}: images", size / seconds, "images/s")]
    return found


def batch_seconds(network, size: int, side: int, limit: float) -> float:
    """Return the median time of a batch in seconds, including its transfer to the device and back."""
    images = np.random.default_rng(size).integers(0, 256, (size, side, side, 1), dtype=np.uint8)
    network.predict_on_batch(images)  # compiles
    taken: list[float] = []
    while sum(taken) < limit or len(taken) < 3:
        started = time.perf_counter()
        network.predict_on_batch(images)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def device(backend: str) -> str:
    if backend == "jax":
        import jax

        return jax.devices()[0].device_kind
    if backend == "torch":
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    import tensorflow as tf

    return "GPU" if tf.config.list_physical_devices("GPU") else "CPU"


if __name__ == "__main__":
    run(__doc__, measure)
