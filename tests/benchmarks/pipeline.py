"""The pipeline against its ceiling: films a second, processor time, memory, and the latency of single films.

Embedded (`up`) and deployed (`watch` and `work` on a Redis and a PostgreSQL of their own), with the shipped model (or
the champion in PNEUMOWATCH_MODEL_DIR) and with a small network. The ceiling is the mean of a run before each pipeline
and one after, over the same films.

    python tests/benchmarks/pipeline.py [--quick] [--json]
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import ceiling
import one_task_per_film
import small_network
from figures import Figure, at_least, at_most, run, tell
from films import kind, make_films
from servers import Servers, servers

from pneumowatch import settings
from pneumowatch.cli.bench import rig
from pneumowatch.cli.bench.trial import Heap, read_heap, read_singly
from pneumowatch.logs import hush
from pneumowatch.model import champion

FILMS, QUICK_FILMS = 3000, 160
SINGLES, QUICK_SINGLES = 100, 8
WARM_UP = 5  # single films before any that count
BASELINE, QUICK_BASELINE = 300, 20  # films
OWN_SHARE = 0.90  # of the ceiling
TIMES_BASELINE = 15
P50_MS, P95_MS = 120, 250


@dataclass(frozen=True)
class Subject:
    """A model under trial, and the films it is tried on; they lie here again after each trial."""

    name: str
    store: Path  # the model store whose champion it is
    predict: ceiling.Predict
    side: int
    films: list[Path]
    singles: list[Path]

    @classmethod
    def load(cls, name: str, store: Path, films: list[Path], singles: list[Path]) -> "Subject":
        with hush():
            return cls(name, store, *ceiling.load(champion(store).path), films, singles)

    def climb(self) -> ceiling.Ceiling:
        return ceiling.climb(self.films, self.predict, self.side)


def measure(quick: bool) -> list[Figure]:
    count, singles = (QUICK_FILMS, QUICK_SINGLES) if quick else (FILMS, SINGLES)
    with tempfile.TemporaryDirectory(prefix="pneumowatch-bench-") as name:
        folder = Path(name)
        tell(f"making {count} films from {kind()}")
        films = make_films(folder / "staged", count + WARM_UP + singles)
        alone, films = films[: WARM_UP + singles], films[WARM_UP + singles :]
        small_network.write(folder / "small" / "champion")
        shipped = Subject.load("shipped", settings.load().models.absolute(), films, alone)
        found = [*try_all(shipped, folder, with_latency=True)]
        small = Subject.load("small", folder / "small", films, alone)
        found += try_all(small, folder, with_latency=False)
        found += against_baseline(small, found, films[: QUICK_BASELINE if quick else BASELINE])
    return found


def try_all(subject: Subject, folder: Path, with_latency: bool) -> Iterator[Figure]:
    """Embedded, then deployed with one worker and with two, each in a folder and on servers of its own."""
    yield from try_one(subject, "embedded", embedded(subject, folder), with_latency)
    yield from try_one(subject, "deployed", deployed(subject, folder, 1), with_latency)
    yield from try_one(subject, "deployed, two workers", deployed(subject, folder, 2), with_latency=False)


System = Callable[[ExitStack], tuple[rig.Rig, Servers | None]]


def embedded(subject: Subject, folder: Path) -> System:
    return lambda stack: (stack.enter_context(rig.embedded(folder / f"{subject.name}-up", subject.store)), None)


def deployed(subject: Subject, folder: Path, workers: int) -> System:
    def start(stack: ExitStack) -> tuple[rig.Rig, Servers | None]:
        own = stack.enter_context(servers())
        here = folder / f"{subject.name}-{workers}"
        system = rig.deployed(here, subject.store, own.database_url, own.broker_url, workers)
        return stack.enter_context(system), own

    return start


def try_one(subject: Subject, where: str, start: System, with_latency: bool) -> Iterator[Figure]:
    what = f"{subject.name}, {where}"
    before = subject.climb()
    with ExitStack() as stack:
        running, own = start(stack)
        read_singly(running, subject.singles[:WARM_UP])
        if with_latency:
            yield from latency(what, running, subject.singles[WARM_UP:])
        running.wait_until_idle()
        costs = own.costs() if own else {}
        heap = read_heap(running, subject.films)
        spent = own.costs() if own else {}
        for film in subject.films:
            (running.inbox / film.name).rename(film)
    after = subject.climb()
    yield from judge(what, heap, before, after)
    for name, one in spent.items():
        cpu = one.cpu_seconds - costs[name].cpu_seconds
        yield Figure(f"{what}: CPU of {name}", 1000 * cpu / heap.films, "ms a film")


def judge(what: str, heap: Heap, before: ceiling.Ceiling, after: ceiling.Ceiling) -> Iterator[Figure]:
    rate = heap.films_per_second
    top = 2 / (1 / before.films_per_second + 1 / after.films_per_second)
    top_cpu = (before.cpu_ms_per_film + after.cpu_ms_per_film) / 2
    cpu = sum(heap.cpu_ms_per_film.values())
    tell(f"{what}: {rate:.1f} films/s; ceiling {before.films_per_second:.1f} and {after.films_per_second:.1f}")
    if heap.without_result:
        raise RuntimeError(f"{heap.without_result} films got no result of their own")
    yield Figure(f"{what}: ceiling", top, "films/s")
    yield Figure(f"{what}: pipeline", rate, "films/s")
    yield at_least(f"{what}: share of the ceiling", rate / top, "", OWN_SHARE)
    yield Figure(f"{what}: CPU of the ceiling", top_cpu, "ms a film")
    yield Figure(f"{what}: CPU of the pipeline", cpu, "ms a film")
    yield Figure(f"{what}: CPU beyond the ceiling", cpu - top_cpu, "ms a film")
    for part, peak in heap.peak_bytes.items():
        yield Figure(f"{what}: peak memory of `{part}` with its children", peak / 1e6, "MB")


def latency(what: str, running: rig.Rig, singles: list[Path]) -> Iterator[Figure]:
    found = read_singly(running, singles)
    yield at_most(f"{what}: a single film, p50", found.p50, "ms", P50_MS)
    yield at_most(f"{what}: a single film, p95", found.p95, "ms", P95_MS)
    yield Figure(f"{what}: a single film, p99", found.p99, "ms")


def against_baseline(small: Subject, found: list[Figure], films: list[Path]) -> Iterator[Figure]:
    """The small network on the pipeline, as often as one task per film reads films with it."""
    pool, rate = one_task_per_film.best(films, champion(small.store).path)
    yield Figure(f"small: one task per film ({pool} pool)", rate, "films/s")
    for where in ("embedded", "deployed"):
        pipeline = next(figure.value for figure in found if figure.name == f"small, {where}: pipeline")
        yield at_least(f"small, {where}: times one task per film", pipeline / rate, "", TIMES_BASELINE)


if __name__ == "__main__":
    run(__doc__, measure)
