"""Run all benchmarks (`make bench`), compare their figures with the bars, and write docs/evidence/benchmarks.md.

    python tests/benchmarks [--only NAME] [--quick]

Each benchmark runs in its own process. Its figures are stored in build/benchmarks, so that one can be measured again
by itself; with --quick nothing is stored or written. Do not use the machine for anything else in the meantime.
"""

import argparse
import json
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import page
from figures import Figure
from machine import ROOT, commit

BENCHMARKS = {
    "pipeline": "The pipeline against its ceiling, single images, one task per image",
    "queue_and_database": "Queue and database alone",
    "watching": "The watcher",
    "database_at_size": "PostgreSQL with five million scans",
    "worklist": "The review app's lists with one million scans in PostgreSQL",
    "worker_start": "A worker's start and its memory",
    "network": "The network alone: batch size against latency",
    "cost": "The shipped network against the notebook's",
}
KEPT = ROOT / "build" / "benchmarks"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=BENCHMARKS, metavar="NAME", help=f"one of {', '.join(BENCHMARKS)}")
    parser.add_argument("--quick", action="store_true", help="small sizes, to check that they work")
    given = parser.parse_args()
    short = 0
    for name in [given.only] if given.only else BENCHMARKS:
        print(f"{name}: {BENCHMARKS[name]}", flush=True)
        started = time.monotonic()
        figures = measured(name, given.quick)
        for figure in figures:
            print(f"  {figure.name:<70} {figure.text:>16}  {figure.bar_text:<24} {figure.verdict}", flush=True)
        print(f"  {time.monotonic() - started:.0f} s\n", flush=True)
        short += sum(figure.met is False for figure in figures)
        if not given.quick:
            keep(name, figures)
    if not given.quick:
        print(f"Written to {page.write(kept()).relative_to(ROOT)}.")
    print(f"{short} figures are short of their bars." if short else "Every figure meets its bar.")


def measured(name: str, quick: bool) -> list[Figure]:
    script = Path(__file__).with_name(f"{name}.py")
    command = [sys.executable, str(script), "--json", *(["--quick"] if quick else [])]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    return [Figure(**figure) for figure in json.loads(output)]


def keep(name: str, figures: list[Figure]) -> None:
    KEPT.mkdir(parents=True, exist_ok=True)
    record = page.Section(BENCHMARKS[name], f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", commit(), figures)
    (KEPT / f"{name}.json").write_text(json.dumps(record.as_dict(), indent=1), "utf-8")


def kept() -> list[page.Section]:
    files = [KEPT / f"{name}.json" for name in BENCHMARKS]
    return [page.Section.from_dict(json.loads(file.read_text("utf-8"))) for file in files if file.exists()]


if __name__ == "__main__":
    main()
