"""Kill workers, broker and database while images arrive, and compare the images with the results (`make faults`).

    python tests/faults [NAME ...] [--quick]

Print a table and write docs/evidence/reliability.md. The figures of each fault are stored in build/faults, so that one
fault can be measured again by itself. With --quick nothing is stored or written.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(1, str(Path(__file__).parents[1] / "benchmarks"))

import machine
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from faults import page
from faults.fault_result import FaultResult
from faults.faults import FAULTS, Fault, installation
from faults.scenario import FULL, QUICK, Pace, Scenario

console = Console()


def main() -> int:
    given = arguments()
    pace = QUICK if given.quick else FULL
    chosen = [fault for fault in FAULTS if fault.name in (given.names or [fault.name])]
    measured = []
    columns = (TextColumn("{task.description:<52}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("starting", total=len(chosen))
        for fault, fault_result in run_faults(chosen, pace, lambda title: progress.update(bar, description=title)):
            progress.update(bar, advance=1)
            tell(fault, fault_result)
            measured.append((fault, fault_result))
            if not given.quick:
                page.keep(
                    fault_result,
                    date=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
                    commit=machine.commit(),
                    load=f"{os.getloadavg()[1]:.0f}",
                )
    show(measured)
    if not given.quick:
        print(f"Written to {page.write(machine.describe()).relative_to(page.ROOT)}.")
    wrong = len(chosen) - sum(not fault_result.complaints for _, fault_result in measured)
    return 1 if wrong else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [fault.name for fault in FAULTS]
    parser.add_argument("names", nargs="*", choices=[*names, []], metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help="fewer images, shorter outages, a short lease")
    return parser.parse_args()


def run_faults(chosen: list[Fault], pace: Pace, begin: Callable[[str], None]) -> Iterator[tuple[Fault, FaultResult]]:
    """Run the faults one after another, on one installation of each kind, or on a new one after a failure.

    Yield each fault with its result.
    """
    with ExitStack() as stack:
        home, running = "", None
        for fault in chosen:
            if reason := fault.missing():
                console.print(f"{fault.name}: skipped; {reason}.")
                continue
            if running is None or home != fault.home:
                stack.close()
                begin(f"starting: {fault.home}")
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pneumowatch-faults-"))
                home, running = fault.home, stack.enter_context(installation(fault.home, Path(folder), pace))
            begin(fault.title)
            try:
                scenario = Scenario(running, pace, fault.name)
                fault.act(scenario)
                fault_result = scenario.close()
            except AssertionError as failure:
                console.print(f"[red]{fault.name}: it did not finish.[/red] {failure}")
                running = None
                continue
            if fault_result.complaints:
                console.print(running.said())
                running = None
            yield fault, fault_result


def tell(fault: Fault, fault_result: FaultResult) -> None:
    good = "[green]good[/green]" if not fault_result.complaints else f"[red]{'; '.join(fault_result.complaints)}[/red]"
    console.print(f"{fault.name}: recovered in {fault_result.recovery:.1f} s, {good} {fault_result.note}")


def show(measured: list[tuple[Fault, FaultResult]]) -> None:
    table = Table(*page.HEADINGS, title="Images in, results out")
    for fault, fault_result in measured:
        table.add_row(*page.cells(fault, fault_result))
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
