"""Compare the pipeline with its ceiling: images a second, processor time, memory, and the latency of single images.

It runs embedded (`up`) and deployed (`watch` and `work` on their own Redis and PostgreSQL), with the shipped model (or
the champion in PNEUMOWATCH_MODEL_DIR) and with a small network. Ceiling and pipeline alternate, because a shared
machine can be a third faster or slower minutes later: each set of images is compared with the ceilings right before
and right after it, and the figure is the median of three such shares.

    python tests/benchmarks/pipeline.py [--quick] [--json]
"""

import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import ceiling
import one_task_per_image
import small_network
from figures import Figure, at_least, at_most, run, tell
from images import kind, make_images
from servers import Servers, servers

from cli.bench import rig
from cli.bench.load_test import Burst, run_burst, run_single_images
from pneumowatch import settings
from pneumowatch.logs import silence_stderr
from pneumowatch.model_folder import champion_folder

IMAGES, QUICK_IMAGES = 3000, 160  # of one set
ROUNDS = 3
SINGLES, QUICK_SINGLES = 100, 8
WARM_UP = 5  # single images before any that count
BASELINE, QUICK_BASELINE = 300, 20  # images
OWN_SHARE = 0.90  # of the ceiling
TIMES_BASELINE = 15
P50_MS, P95_MS = 120, 250


@dataclass(frozen=True)
class Subject:
    """A model to measure, and the sets of images to measure it on, which are moved back after each run."""

    name: str
    store: Path  # the model store of which it is the champion
    predict: ceiling.Predict
    side: int
    bursts: list[list[Path]]
    singles: list[Path]

    @classmethod
    def load(cls, name: str, store: Path, bursts: list[list[Path]], singles: list[Path]) -> "Subject":
        with silence_stderr():
            return cls(name, store, *ceiling.load(champion_folder(store).path), bursts, singles)

    def climb(self, images: list[Path]) -> ceiling.Ceiling:
        return ceiling.climb(images, self.predict, self.side)


@dataclass(frozen=True)
class Round:
    """A set of images read by the pipeline, between two runs of the ceiling over the same images."""

    burst: Burst
    before: ceiling.Ceiling
    after: ceiling.Ceiling

    @property
    def top(self) -> float:
        """Images a second of the ceiling: the mean over the time of both runs."""
        return 2 / (1 / self.before.images_per_second + 1 / self.after.images_per_second)

    @property
    def share(self) -> float:
        return self.burst.images_per_second / self.top

    @property
    def cpu(self) -> float:
        return sum(self.burst.cpu_ms_per_image.values())

    @property
    def top_cpu(self) -> float:
        return (self.before.cpu_ms_per_image + self.after.cpu_ms_per_image) / 2


def measure(quick: bool) -> list[Figure]:
    count, singles = (QUICK_IMAGES, QUICK_SINGLES) if quick else (IMAGES, SINGLES)
    with tempfile.TemporaryDirectory(prefix="pneumowatch-bench-") as name:
        folder = Path(name)
        tell(f"making {ROUNDS} sets of {count} images from {kind()}")
        images = make_images(folder / "staged", ROUNDS * count + WARM_UP + singles)
        single_images, images = images[: WARM_UP + singles], images[WARM_UP + singles :]
        bursts = [images[start : start + count] for start in range(0, len(images), count)]
        small_network.write(folder / "small" / "champion")
        shipped = Subject.load("shipped", settings.load_settings().models.absolute(), bursts, single_images)
        found = [*try_all(shipped, folder, with_latency=True)]
        bare = embedded(shipped, folder, KEEP_IMAGES="judged")  # shows the cost of storing flagged images
        found += try_one(shipped, "embedded, no image stored", bare, bursts[:1], with_latency=False)
        small = Subject.load("small", folder / "small", bursts, single_images)
        found += try_all(small, folder, with_latency=False)
        found += against_baseline(small, found, images[: QUICK_BASELINE if quick else BASELINE])
    return found


def try_all(subject: Subject, folder: Path, with_latency: bool) -> Iterator[Figure]:
    """Measure embedded, then deployed with one worker and with two, each in its own folder and on its own servers."""
    yield from try_one(subject, "embedded", embedded(subject, folder), subject.bursts, with_latency)
    yield from try_one(subject, "deployed", deployed(subject, folder, 1), subject.bursts, with_latency)
    two = deployed(subject, folder, 2)
    yield from try_one(subject, "deployed, two workers", two, subject.bursts[:1], with_latency=False)


System = Callable[[ExitStack], tuple[rig.Rig, Servers | None]]


def embedded(subject: Subject, folder: Path, **given: str) -> System:
    here = folder / "-".join((subject.name, "up", *given.values()))
    return lambda stack: (stack.enter_context(rig.embedded(here, subject.store, **given)), None)


def deployed(subject: Subject, folder: Path, workers: int) -> System:
    def start(stack: ExitStack) -> tuple[rig.Rig, Servers | None]:
        own = stack.enter_context(servers())
        here = folder / f"{subject.name}-{workers}"
        system = rig.deployed(here, subject.store, own.database_url, own.broker_url, workers)
        return stack.enter_context(system), own

    return start


def try_one(
    subject: Subject, where: str, start: System, bursts: list[list[Path]], with_latency: bool
) -> Iterator[Figure]:
    what = f"{subject.name}, {where}"
    rounds = []
    with ExitStack() as stack:
        running, own = start(stack)
        run_single_images(running, subject.singles[:WARM_UP])
        if with_latency:
            yield from latency(what, running, subject.singles[WARM_UP:])
        costs = own.costs() if own else {}
        for images in bursts:
            rounds.append(one_round(subject, running, images))
            tell(f"{what}: {describe(rounds[-1])}")
        spent = own.costs() if own else {}
    yield from judge(what, rounds)
    for name, one in spent.items():
        cpu = one.cpu_seconds - costs[name].cpu_seconds
        yield Figure(f"{what}: CPU of {name}", 1000 * cpu / sum(map(len, bursts)), "ms per image")


def one_round(subject: Subject, running: rig.Rig, images: list[Path]) -> Round:
    before = subject.climb(images)
    running.wait_until_idle()
    burst = run_burst(running, images)
    for image in images:
        (running.inbox / image.name).rename(image)
    if burst.without_result:
        raise RuntimeError(f"{burst.without_result} images got no result of their own")
    running.wait_until_idle()
    return Round(burst, before, subject.climb(images))


def describe(one: Round) -> str:
    before, after = one.before.images_per_second, one.after.images_per_second
    return f"{one.burst.images_per_second:.1f} images/s; ceiling {before:.1f} and {after:.1f}; share {one.share:.3f}"


def judge(what: str, rounds: list[Round]) -> Iterator[Figure]:
    """Yield the figures of the round with the median share, and the lowest and highest share."""
    one = sorted(rounds, key=lambda one: one.share)[(len(rounds) - 1) // 2]
    yield Figure(f"{what}: ceiling", one.top, "images/s")
    yield Figure(f"{what}: pipeline", one.burst.images_per_second, "images/s")
    # no bar for two workers: one already uses the whole machine, so a second cannot be faster
    yield Figure(f"{what}: share of the ceiling", one.share, "", OWN_SHARE if len(rounds) > 1 else None)
    if len(rounds) > 1:
        yield Figure(f"{what}: ... lowest of {len(rounds)} rounds", min(one.share for one in rounds))
        yield Figure(f"{what}: ... highest", max(one.share for one in rounds))
    yield Figure(f"{what}: CPU of the ceiling", statistics.median(one.top_cpu for one in rounds), "ms per image")
    yield Figure(f"{what}: CPU of the pipeline", statistics.median(one.cpu for one in rounds), "ms per image")
    beyond = statistics.median(one.cpu - one.top_cpu for one in rounds)
    yield Figure(f"{what}: CPU beyond the ceiling", beyond, "ms per image")
    for part, peak in rounds[-1].burst.peak_bytes.items():
        yield Figure(f"{what}: peak memory of `{part}` with its children", peak / 1e6, "MB")


def latency(what: str, running: rig.Rig, singles: list[Path]) -> Iterator[Figure]:
    found = run_single_images(running, singles)
    yield at_most(f"{what}: a single image, p50", found.p50, "ms", P50_MS)
    yield at_most(f"{what}: a single image, p95", found.p95, "ms", P95_MS)
    yield Figure(f"{what}: a single image, p99", found.p99, "ms")


def against_baseline(small: Subject, found: list[Figure], images: list[Path]) -> Iterator[Figure]:
    """Compare the pipeline with one task per image, both with the small network."""
    pool, rate = one_task_per_image.best(images, champion_folder(small.store).path)
    yield Figure(f"small: one task per image ({pool} pool)", rate, "images/s")
    for where in ("embedded", "deployed"):
        pipeline = next(figure.value for figure in found if figure.name == f"small, {where}: pipeline")
        yield at_least(f"small, {where}: times one task per image", pipeline / rate, "", TIMES_BASELINE)


if __name__ == "__main__":
    run(__doc__, measure)
