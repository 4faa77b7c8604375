"""Compare the time of the shipped network with the notebook's: a batch of 32, alternating, in one process.

Both run as they do in a worker, in TensorFlow: uint8 images in, all outputs out (including our map and gate).

    python tests/benchmarks/cost.py [--quick] [--json]
"""

import os
import statistics
import time
from collections.abc import Callable

import numpy as np
from figures import Figure, at_most, run

from pneumowatch.logs import silence_stderr
from pneumowatch.model_folder import shipped_folder
from trainer import networks

BATCH = 32
ROUNDS, QUICK_ROUNDS = 200, 5
SEED_NETWORK = "cnn_dropout"  # the notebook's best; its time does not depend on its weights
BAR = 0.30


def measure(quick: bool) -> list[Figure]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when TensorFlow is loaded
    ours, theirs = (
        networks.load_inference_model(shipped_folder()),
        networks.inference_model(networks.build(SEED_NETWORK)),
    )
    calls = {"ours": compiled(ours), "theirs": compiled(theirs)}
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(QUICK_ROUNDS if quick else ROUNDS):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - started)
    seconds = {name: statistics.median(of) for name, of in taken.items()}
    ratios = [a / b for a, b in zip(taken["ours"], taken["theirs"], strict=True)]
    return [
        Figure(f"{SEED_NETWORK}: a batch of {BATCH}", 1000 * seconds["theirs"], "ms"),
        Figure(f"the shipped network: a batch of {BATCH}", 1000 * seconds["ours"], "ms"),
        at_most(
            "the shipped network's time as a share of the seed's, median of pairs", statistics.median(ratios), "", BAR
        ),
    ]


def compiled(network) -> Callable[[], None]:
    """Return a call that runs one batch through the network as a worker does; compiled and warm."""
    with silence_stderr():
        import tensorflow as tf

    side = network.input_shape[1]
    images = tf.constant(np.random.default_rng(1).integers(0, 256, (BATCH, side, side, 1), dtype=np.uint8))
    graph = tf.function(lambda x: network(x, training=False))

    def call() -> None:
        tf.nest.map_structure(lambda output: output.numpy(), graph(images))

    for _ in range(3):
        call()
    return call


if __name__ == "__main__":
    run(__doc__, measure)
