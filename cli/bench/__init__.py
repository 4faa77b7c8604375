"""`bench`: measure this machine's throughput, and how much of it the pipeline reaches."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import Json

if TYPE_CHECKING:
    from cli.bench.measurement import StartStep


def bench(
    inbox: Annotated[
        Path | None, typer.Option("--inbox", help="Folder of images to copy and use (default: generated phantoms).")
    ] = None,
    images: Annotated[int, typer.Option(min=32, max=100_000, help="Number of images to measure with.")] = 1000,
    deployed: Annotated[
        bool, typer.Option("--deployed", help="Also measure on the configured Redis and PostgreSQL, in a new database.")
    ] = False,
    json: Json = False,
) -> None:
    """Measure images per second on this machine: the model alone, and the whole pipeline. Takes about a minute.

    Images are copied into a temporary folder (TMPDIR), and no result is kept. With [bold]--deployed[/bold] the pipeline
    also runs on the configured servers: in a database that is created and dropped again, and in an empty Redis
    database. Your ledger and queue are not touched, but the servers are under load.
    """
    from cli.bench.measurement import measure
    from cli.output import print_json
    from pneumowatch import settings

    config = settings.load_settings()
    with _progress_bar() as start_step:
        report = measure(config, inbox, images, deployed, start_step)
    if not deployed and config.database_url and not config.embedded_queue:
        report["note"] = "Redis and PostgreSQL were not measured; --deployed measures on them."
    if json:
        print_json(report)
    else:
        _print(report)


@contextmanager
def _progress_bar() -> "Iterator[StartStep]":
    """Show a progress bar on standard error, so that --json stays clean. Yields a function that starts a step."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from cli.output import error_console

    with Progress(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=error_console, transient=True
    ) as bar:
        task = bar.add_task("")

        def start_step(step: str, images: int) -> Callable[[int], None]:
            bar.reset(task, description=step, total=images or None)
            return lambda done: bar.update(task, completed=done)

        yield start_step


def _print(report: dict[str, Any]) -> None:
    from cli.output import console, print_table

    ceiling = report["ceiling"]
    rows = [_row("in-process ceiling", ceiling["images_per_second"], ceiling["cpu_ms_per_image"])]
    systems = {name: report[name] for name in ("embedded", "deployed") if name in report}
    for name, one in systems.items():
        cpu = sum(one["cpu_ms_per_image"].values())
        rows.append(_row(f"{name} pipeline", one["images_per_second"], cpu, one))
    print_table(f"{report['images']} images ({report['made_from']}), model {report['model']}", rows, list(rows[0]))
    print_table(
        "Time per image of each stage, measured alone",
        [{"stage": name, **{key: f"{ms:.2f}" for key, ms in one.items()}} for name, one in report["stages"].items()],
        ["stage", "wall_ms", "cpu_ms"],
    )
    memory = [
        {"pipeline": name, "component": component, "peak_MB": f"{size / 1e6:.0f}"}
        for name, one in systems.items()
        for component, size in one["peak_bytes"].items()
    ]
    print_table("Memory of each component with its children", memory, ["pipeline", "component", "peak_MB"])
    for name, one in systems.items():
        if one["without_result"]:
            console.print(f"{name}: {one['without_result']} images were rejected, or counted as duplicates.")
    if "note" in report:
        console.print(report["note"])


def _row(what: str, images_per_second: float, cpu_ms: float, system: dict[str, Any] | None = None) -> dict[str, str]:
    latency = system["latency_ms"] if system else {}
    return {
        "what": what,
        "images/s": f"{images_per_second:.1f}",
        "of_ceiling": f"{100 * system['ratio_to_ceiling']:.0f} %" if system else "",
        "CPU_ms": f"{cpu_ms:.2f}",
        **{f"{name}_ms": f"{latency[name]:.0f}" if latency else "" for name in ("p50", "p95", "p99")},
    }
