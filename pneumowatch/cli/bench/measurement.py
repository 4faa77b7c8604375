"""What `bench` measures, one thing after another: the model alone, each stage alone, then whole pipelines."""

import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from pneumowatch.cli.bench import rig, stages, tenancy
from pneumowatch.cli.bench.copies import DRAWN, copy_films, draw_phantoms
from pneumowatch.cli.bench.trial import read_heap, read_singly
from pneumowatch.model import CHAMPION, champion
from pneumowatch.settings import Settings
from worker.classifier import Classifier

SINGLES: Final = 50  # films read one by one
WARM_UP: Final = 5  # ... before them, uncounted

Begin = Callable[[str, int], Callable[[int], None]]  # a step of so many films; gives what tells how many are done


def measure(settings: Settings, inbox: Path | None, count: int, deployed: bool, begin: Begin) -> dict[str, Any]:
    """The report of `bench --json`: times in milliseconds, memory in bytes.

    The ceiling is the mean of a run before the pipelines and one after: machines that others use too change meanwhile.
    """
    with ExitStack() as stack:
        # the servers first: it would be a pity to find out at the end that they cannot be used
        servers = stack.enter_context(tenancy.lodging(settings)) if deployed else None
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pneumowatch-bench-")))
        staged = _stage(folder, inbox, count + SINGLES + WARM_UP, begin)
        singles, heap = staged[: SINGLES + WARM_UP], staged[SINGLES + WARM_UP :]
        begin("loading the model", 0)
        model = champion(settings.models)
        classifier = Classifier(model, settings.batch_size)
        begin("each stage by itself", 0)
        each = stages.stages(heap, classifier, settings, folder)
        before = _climb(heap, classifier, settings, begin)
        # in a model store of its own, as the parts write to it
        models = folder / "models"
        shutil.copytree(model.path, models / CHAMPION)
        systems = {"embedded": rig.embedded(folder / "embedded", models)}
        if servers:
            systems["deployed"] = rig.deployed(folder / "deployed", models, servers.database_url, servers.broker_url)
        found = {}
        for name, system in systems.items():
            begin(f"{name}: starting", 0)
            with system as running:
                found[name] = _try(running, name, singles, heap, begin)
                heap = sorted(running.inbox.glob("film-*"))  # for the next one
        after = _climb(heap, classifier, settings, begin)
    ceiling = 2000 / (before.wall_ms + after.wall_ms)
    return {
        "films": count,
        "made_from": "your films" if inbox else "phantoms",
        "model": model.version,
        "ceiling": {"films_per_second": ceiling, "cpu_ms_per_film": (before.cpu_ms + after.cpu_ms) / 2},
        **{name: {**one, "ratio_to_ceiling": one["films_per_second"] / ceiling} for name, one in found.items()},
        "stages": {name: asdict(spent) for name, spent in each.items()},
    }


def _stage(folder: Path, inbox: Path | None, count: int, begin: Begin) -> list[Path]:
    if inbox:
        sources = sorted(path for path in inbox.rglob("*") if path.is_file())
    else:
        sources = draw_phantoms(folder / "drawn", begin("drawing phantoms", DRAWN))
    return copy_films(sources, folder / "staged", count, begin("copying films", count))


def _climb(films: list[Path], classifier: Classifier, settings: Settings, begin: Begin) -> stages.Spent:
    begin("ceiling: reading, decoding, predicting", 0)
    return stages.ceiling(films, classifier, settings.decoder_count, settings.batch_size)


def _try(running: rig.Rig, name: str, singles: list[Path], heap: list[Path], begin: Begin) -> dict[str, Any]:
    read_singly(running, singles[:WARM_UP])
    latency = read_singly(running, singles[WARM_UP:], begin(f"{name}: single films", SINGLES))
    result = read_heap(running, heap, begin(f"{name}: {len(heap)} films at once", len(heap)))
    return {
        "films_per_second": result.films_per_second,
        "without_result": result.without_result,
        "cpu_ms_per_film": result.cpu_ms_per_film,
        "peak_bytes": result.peak_bytes,
        "latency_ms": asdict(latency),
    }
