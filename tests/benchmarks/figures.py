"""Figures: the results of a benchmark, each with the bar that it should meet."""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

Kind = Literal["at least", "at most"]


@dataclass(frozen=True)
class Figure:
    """One measured value, with or without a bar."""

    name: str
    value: float
    unit: str = ""
    bar: float | None = None
    kind: Kind = "at least"

    @property
    def met(self) -> bool | None:
        if self.bar is None:
            return None
        return self.value >= self.bar if self.kind == "at least" else self.value <= self.bar

    @property
    def text(self) -> str:
        return f"{number(self.value)} {self.unit}".strip()

    @property
    def bar_text(self) -> str:
        return "" if self.bar is None else f"{self.kind} {number(self.bar)} {self.unit}".strip()

    @property
    def verdict(self) -> str:
        return {None: "", True: "met", False: "short"}[self.met]


def number(value: float) -> str:
    """Format a number with three digits, or with all digits before the point."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def at_least(name: str, value: float, unit: str, bar: float) -> Figure:
    return Figure(name, value, unit, bar, "at least")


def at_most(name: str, value: float, unit: str, bar: float) -> Figure:
    return Figure(name, value, unit, bar, "at most")


def tell(text: str) -> None:
    """Print progress on standard error; standard output is for the figures alone."""
    print(f"  {text}", file=sys.stderr, flush=True)


def run(description: str | None, measure: Callable[[bool], list[Figure]]) -> None:
    """Run the command line of a benchmark: `--quick` for small sizes, `--json` for `python tests/benchmarks`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, to check that it works")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    figures = measure(given.quick)
    if given.json:
        print(json.dumps([asdict(figure) for figure in figures]))
    else:
        for figure in figures:
            print(f"{figure.name:<70} {figure.text:>16}  {figure.bar_text:<22} {figure.verdict}")
