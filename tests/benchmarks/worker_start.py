"""Measure a worker's start and memory: TensorFlow's import, the time until the model is ready, and growth.

python tests/benchmarks/worker_start.py [--quick] [--json]
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from figures import Figure, at_most, run, tell
from servers import servers

from cli.bench import rig
from cli.bench.copies import copy_images
from cli.bench.load_test import run_burst
from pneumowatch import settings
from pneumowatch.imaging.phantom import draw_phantom

STARTS, QUICK_STARTS = 5, 1
FEW, MANY = 1_000, 20_000  # images read before memory is measured
QUICK_FEW, QUICK_MANY = 100, 500
TINY = 64  # pixels a side: a leak shows with small images, too, and sooner
BEYOND_IMPORT_SECONDS = 2
WORKER_BYTES = 1e9
GROWTH_MB = 20  # from the first number of images to the second


def measure(quick: bool) -> list[Figure]:
    store = settings.load_settings().models.absolute()
    with tempfile.TemporaryDirectory(prefix="pneumowatch-bench-") as name:
        return [
            *starting(Path(name), store, QUICK_STARTS if quick else STARTS),
            *reading(Path(name), store, *((QUICK_FEW, QUICK_MANY) if quick else (FEW, MANY))),
        ]


def starting(folder: Path, store: Path, times: int) -> list[Figure]:
    """Return medians over processes started one after another, with the programs' files in the page cache."""
    imports, ready = [], []
    with servers() as own:
        given = rig.process_environment(
            MODEL_DIR=store,
            DATABASE_URL=own.database_url,
            BROKER_URL=own.broker_url,
            INBOXES=f"{rig.INBOX_NAME}={folder}",
        )
        for count in range(times + 1):
            pair = import_seconds(), ready_seconds(folder, given)
            tell(f"import of TensorFlow {pair[0]:.2f} s, worker ready {pair[1]:.2f} s")
            if count:  # the first of each only loads the files into the cache
                imports.append(pair[0])
                ready.append(pair[1])
    import_time, whole = statistics.median(imports), statistics.median(ready)
    return [
        Figure("import of TensorFlow alone", import_time, "s"),
        Figure("`pneumowatch work`: from its start to the model ready", whole, "s"),
        at_most("... beyond the import", whole - import_time, "s", BEYOND_IMPORT_SECONDS),
    ]


def import_seconds() -> float:
    started = time.perf_counter()
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", "import tensorflow"]
    subprocess.run(command, check=True, env=environment, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def ready_seconds(folder: Path, given: dict[str, str]) -> float:
    started = time.perf_counter()
    with rig.pneumowatch_process("work", ["work"], folder, given) as process:
        rig.wait_for_log_line(rig.READY_LINE, "work", folder, process)
        return time.perf_counter() - started


def reading(folder: Path, store: Path, few: int, many: int) -> list[Figure]:
    """Measure the resident memory of the worker and its decoding children, after two numbers of images."""
    images = tiny_images(folder / "staged", many)
    with ExitStack() as stack:
        own = stack.enter_context(servers())
        system = rig.deployed(folder / "deployed", store, own.database_url, own.broker_url)
        running = stack.enter_context(system)
        run_burst(running, images[:few])
        early = running.usage()["work"]
        tell(f"{few} images read: {early.resident / 1e6:.0f} MB")
        run_burst(running, images[few:])
        late = running.usage()["work"]
        tell(f"{many} images read: {late.resident / 1e6:.0f} MB")
    return [
        at_most("worker with its children, peak memory", late.peak / 1e6, "MB", WORKER_BYTES / 1e6),
        Figure(f"... resident after {few:,} images", early.resident / 1e6, "MB"),
        Figure(f"... resident after {many:,} images", late.resident / 1e6, "MB"),
        at_most("... growth between the two", (late.resident - early.resident) / 1e6, "MB", GROWTH_MB),
    ]


def tiny_images(folder: Path, count: int) -> list[Path]:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "source.png"
    Image.fromarray(draw_phantom(1, False, TINY, TINY)).save(source)
    return copy_images([source], folder / "images", count)


if __name__ == "__main__":
    run(__doc__, measure)
