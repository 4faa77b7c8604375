"""Write docs/evidence/benchmarks.md: every figure as measured, its bar, and the reason if it misses the bar."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import machine
from figures import Figure
from images import kind
from reasons import REASONS

PAGE = machine.ROOT / "docs" / "evidence" / "benchmarks.md"
OPENING = """# Benchmarks

These figures were measured on one machine by `make bench`. `pneumowatch bench` measures your own.

- The ceiling is a plain loop in one process (tests/benchmarks/ceiling.py): read, hash and decode in two threads,
  predict in batches of 32, no queue, no database. It is the mean of a run before each pipeline and one after.
- Processor time is user and system time of all processes of a component, from /proc. Memory is resident memory, summed
  over a component's processes, so that shared memory counts once for each process.
- A single image is timed from the close of the written file until another connection reads its committed result; the
  system is idle before.
- A figure that misses its bar is marked "short" and stays as measured, with the reason.
"""


@dataclass(frozen=True)
class Section:
    """The figures of one benchmark, the time of the measurement, and the measured commit."""

    title: str
    date: str
    commit: str
    figures: list[Figure]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> "Section":
        return cls(**{**record, "figures": [Figure(**figure) for figure in record["figures"]]})


def write(sections: list[Section]) -> Path:
    PAGE.write_text("\n".join(_lines(sections)) + "\n", "utf-8")
    return PAGE


def _lines(sections: list[Section]) -> Iterator[str]:
    yield OPENING
    yield "| machine | |"
    yield "|---|---|"
    yield from (f"| {name} | {value} |" for name, value in machine.describe().items())
    yield f"| images | {kind()} |"
    for section in sections:
        yield f"\n## {section.title}\n"
        yield f"{section.date}, commit {section.commit}.\n"
        yield "| figure | measured | bar | |"
        yield "|---|---:|---|---|"
        for figure in section.figures:
            reason = REASONS.get(figure.name, "") if figure.met is False else ""
            verdict = f"{figure.verdict}: {reason}" if reason else figure.verdict
            yield f"| {figure.name} | {figure.text} | {figure.bar_text} | {verdict} |"
