"""Measure the baseline: Celery as it is used most, with one task for each image.

The message contains the path. The task reads and decodes the image and calls `model.predict` on a batch of one; results
go to Redis. The decoder is ours, which favours the baseline. Both pools are measured, and the better one counts.

    python tests/benchmarks/one_task_per_image.py FOLDER MODELFOLDER
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from celery import Celery
from figures import tell
from redis import Redis
from servers import redis_server
from support.waiting import eventually

from pneumowatch.imaging.reader import read_pixels
from pneumowatch.logs import silence_stderr

POOLS = {"solo": 1, "threads": 2}  # -> concurrency
START_SECONDS = 120
RESULTS = 1  # the Redis database of the results, which DBSIZE then counts


def make_app(broker: str) -> Celery:
    return Celery("baseline", broker=broker, backend=results_url(broker))


def results_url(broker: str) -> str:
    return f"{broker.rpartition('/')[0]}/{RESULTS}"


def work(broker: str, model: Path, pool: str) -> None:
    """Run the worker process, which loads the network once."""
    with silence_stderr():
        import keras

        network = keras.saving.load_model(model / "model.keras", compile=False)
    side = network.input_shape[1]
    app = make_app(broker)

    @app.task(name="classify")
    def classify(path: str) -> float:
        image = read_pixels(Path(path).read_bytes(), side)
        said = network.predict(image[np.newaxis, ..., np.newaxis], verbose=0)
        return float((said["probability"] if isinstance(said, dict) else said)[0, 0])

    app.Worker(pool=pool, concurrency=POOLS[pool], loglevel="ERROR", quiet=True).start()


def images_per_second(images: list[Path], model: Path, pool: str) -> float:
    """Measure images a second, from the first task sent until the last result is in Redis, with a warm worker."""
    with redis_server() as redis, _worker(redis.url, model, pool):
        send = make_app(redis.url).signature("classify").delay
        results = Redis.from_url(results_url(redis.url))
        send(str(images[0]))
        _wait(results, 1)
        started = time.perf_counter()
        for image in images:
            send(str(image))
        _wait(results, 1 + len(images))
        return len(images) / (time.perf_counter() - started)


def best(images: list[Path], model: Path) -> tuple[str, float]:
    """Return the pool that reads more images, and how many a second."""
    rates = {pool: images_per_second(images, model, pool) for pool in POOLS}
    tell(", ".join(f"one task per image, {pool}: {rate:.1f} images/s" for pool, rate in rates.items()))
    return max(rates.items(), key=lambda item: item[1])


def _wait(results: Redis, count: int) -> None:
    message = "the baseline's worker gives no results"
    eventually(lambda: results.dbsize() >= count, START_SECONDS, every=0.05, message=message)


@contextmanager
def _worker(broker: str, model: Path, pool: str) -> Iterator[None]:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, __file__, "--work", broker, pool, str(model)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def main() -> None:
    if sys.argv[1] == "--work":
        return work(sys.argv[2], Path(sys.argv[4]), sys.argv[3])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="images, also in sub-folders")
    parser.add_argument("model", type=Path, help="a model folder")
    given = parser.parse_args()
    pool, rate = best(sorted(path for path in given.folder.rglob("*") if path.is_file()), given.model)
    return print(f"{rate:.1f} images/s ({pool})")


if __name__ == "__main__":
    main()
