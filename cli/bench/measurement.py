"""Run the measurements of `bench` in order: the model alone, each stage alone, then whole pipelines."""

import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from cli.bench import rig, scratch_servers, stages
from cli.bench.copies import PHANTOM_COUNT, copy_images, draw_phantoms
from cli.bench.load_test import run_burst, run_single_images
from pneumowatch.model_folder import CHAMPION_LINK, champion_folder
from pneumowatch.settings import Settings
from worker.inference.classifier import Classifier

SINGLE_IMAGES: Final = 50  # processed one by one, for the latency
WARM_UP_IMAGES: Final = 5  # processed before them and not counted

StartStep = Callable[[str, int], Callable[[int], None]]  # (step, images) -> function that reports the number done


def measure(
    settings: Settings, inbox: Path | None, count: int, deployed: bool, start_step: StartStep
) -> dict[str, Any]:
    """Measure, and return the report of `bench --json`: times in milliseconds, memory in bytes.

    The ceiling is the mean of a run before and a run after the pipelines, since the load of a shared machine changes.
    """
    with ExitStack() as stack:
        # the servers first, to fail early where they cannot be used
        servers = stack.enter_context(scratch_servers.provision_servers(settings)) if deployed else None
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pneumowatch-bench-")))
        staged = _stage_images(folder, inbox, count + SINGLE_IMAGES + WARM_UP_IMAGES, start_step)
        single_images, burst = staged[: SINGLE_IMAGES + WARM_UP_IMAGES], staged[SINGLE_IMAGES + WARM_UP_IMAGES :]
        start_step("loading the model", 0)
        model = champion_folder(settings.models)
        classifier = Classifier(model, settings.batch_size)
        start_step("each stage by itself", 0)
        each = stages.measure_stages(burst, classifier, settings, folder)
        before = _measure_ceiling(burst, classifier, settings, start_step)
        # a model store of its own, because the components write to it
        models = folder / "models"
        shutil.copytree(model.path, models / CHAMPION_LINK)
        systems = {"embedded": rig.embedded(folder / "embedded", models)}
        if servers:
            systems["deployed"] = rig.deployed(folder / "deployed", models, servers.database_url, servers.broker_url)
        found = {}
        for name, system in systems.items():
            start_step(f"{name}: starting", 0)
            with system as running:
                found[name] = _measure_pipeline(running, name, single_images, burst, start_step)
                burst = sorted(running.inbox.glob("image-*"))  # for the next one
        after = _measure_ceiling(burst, classifier, settings, start_step)
    ceiling = 2000 / (before.wall_ms + after.wall_ms)
    return {
        "images": count,
        "made_from": "your images" if inbox else "phantoms",
        "model": model.version,
        "ceiling": {"images_per_second": ceiling, "cpu_ms_per_image": (before.cpu_ms + after.cpu_ms) / 2},
        **{name: {**one, "ratio_to_ceiling": one["images_per_second"] / ceiling} for name, one in found.items()},
        "stages": {name: asdict(spent) for name, spent in each.items()},
    }


def _stage_images(folder: Path, inbox: Path | None, count: int, start_step: StartStep) -> list[Path]:
    if inbox:
        sources = sorted(path for path in inbox.rglob("*") if path.is_file())
    else:
        sources = draw_phantoms(folder / "drawn", start_step("drawing phantoms", PHANTOM_COUNT))
    return copy_images(sources, folder / "staged", count, start_step("copying images", count))


def _measure_ceiling(
    images: list[Path], classifier: Classifier, settings: Settings, start_step: StartStep
) -> stages.StageTime:
    start_step("ceiling: reading, decoding, predicting", 0)
    return stages.measure_ceiling(images, classifier, settings.decoder_count, settings.batch_size)


def _measure_pipeline(
    running: rig.Rig, name: str, single_images: list[Path], burst: list[Path], start_step: StartStep
) -> dict[str, Any]:
    run_single_images(running, single_images[:WARM_UP_IMAGES])
    latency = run_single_images(
        running, single_images[WARM_UP_IMAGES:], start_step(f"{name}: single images", SINGLE_IMAGES)
    )
    result = run_burst(running, burst, start_step(f"{name}: burst of {len(burst)} images", len(burst)))
    return {
        "images_per_second": result.images_per_second,
        "without_result": result.without_result,
        "cpu_ms_per_image": result.cpu_ms_per_image,
        "peak_bytes": result.peak_bytes,
        "latency_ms": asdict(latency),
    }
