"""Measure the ceiling: how many images this machine can read with a model and nothing else.

This is a fixed plain loop: read, SHA-256 and decode in two threads, four batches ahead; predict in batches of 32. It
uses no queue, no database, and nothing of ours but the image reader and the model file, so that it is independent of
the pipeline. If the loop changes, no figure can be compared with earlier ones.

    python tests/benchmarks/ceiling.py FOLDER MODELFOLDER [--json]
"""

import argparse
import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pneumowatch.imaging.reader import Pixels, read_pixels

BATCH = 32
THREADS = 2
AHEAD = 4 * BATCH  # images read in advance; without a bound the threads take the processor from the model

ImageFile = tuple[str, Pixels]  # SHA-256 of the file, and uint8 (side, side)
Predict = Callable[[Pixels], Any]  # uint8 (n, side, side) -> probabilities (n,)


class Ceiling(NamedTuple):
    images: int
    images_per_second: float
    cpu_ms_per_image: float  # user and system time of the process


def load(model: Path) -> tuple[Predict, int]:
    """Return the network of a model folder as a compiled, warmed-up function, and the side of its input in pixels."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when TensorFlow is loaded
    import keras
    import tensorflow as tf

    network = keras.saving.load_model(model / "model.keras", compile=False, safe_mode=True)
    side = network.input_shape[1]
    signature = [tf.TensorSpec((None, side, side, 1), tf.uint8)]
    run = tf.function(lambda images: network(images, training=False), input_signature=signature)

    def predict(images: Pixels) -> Any:
        said = run(tf.constant(images[..., np.newaxis]))
        return (said["probability"] if isinstance(said, dict) else said).numpy()[:, 0]

    for count in (BATCH, BATCH, 1):
        predict(np.zeros((count, side, side), np.uint8))
    return predict, side


def climb(paths: list[Path], predict: Predict, side: int) -> Ceiling:
    """Run the loop once over these images."""

    def fetch(path: Path) -> ImageFile:
        data = path.read_bytes()
        return hashlib.sha256(data).hexdigest(), read_pixels(data, side)

    started, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(THREADS) as threads:
        for batch in batches(ahead(threads, fetch, paths)):
            predict(np.stack([pixels for _, pixels in batch]))
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return Ceiling(len(paths), len(paths) / seconds, 1000 * cpu / len(paths))


def ahead(
    threads: ThreadPoolExecutor, fetch: Callable[[Path], ImageFile], paths: Iterable[Path]
) -> Iterator[ImageFile]:
    """Yield the result of `fetch` for each path, in order."""
    coming = iter(paths)
    waiting = deque(threads.submit(fetch, path) for path in islice(coming, AHEAD))
    while waiting:
        yield waiting.popleft().result()
        waiting.extend(threads.submit(fetch, path) for path in islice(coming, 1))


def batches(images: Iterable[ImageFile]) -> Iterator[list[ImageFile]]:
    iterator = iter(images)
    while batch := list(islice(iterator, BATCH)):
        yield batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="images, also in sub-folders")
    parser.add_argument("model", type=Path, help="a model folder")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    paths = sorted(path for path in given.folder.rglob("*") if path.is_file())
    result = climb(paths, *load(given.model))
    if given.json:
        print(json.dumps(result._asdict()))
    else:
        print(
            f"{result.images_per_second:.1f} images/s, {result.cpu_ms_per_image:.2f} ms of CPU per image, "
            f"{len(paths)} images"
        )


if __name__ == "__main__":
    main()
