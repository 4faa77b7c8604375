"""docs/evidence/benchmarks.md: every figure as measured, against its bar, with the reason where it is short."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import machine
from figures import Figure
from films import kind
from reasons import REASONS

PAGE = machine.ROOT / "docs" / "evidence" / "benchmarks.md"
OPENING = """# Benchmarks

What pneumowatch does on one machine. Written by `make bench`; `pneumowatch bench` tells what yours does.

- The ceiling is a plain loop in one process (tests/benchmarks/ceiling.py): read, hash and decode in two threads,
  predict in batches of 32, no queue, no database. It is the mean of a run before each pipeline and one after.
- Processor time is user and system time of all processes of a part, from /proc. Memory is resident memory, summed over
  a part's processes, so that what they share counts for each.
- A single film: from the close of the written file until another connection reads its committed result; the system is
  idle before.
- A figure that is short of its bar stays as measured, with the reason.
"""


@dataclass(frozen=True)
class Section:
    """The figures of one benchmark, when they were measured, and of which commit."""

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
    yield f"| films | {kind()} |"
    for section in sections:
        yield f"\n## {section.title}\n"
        yield f"{section.date}, commit {section.commit}.\n"
        yield "| figure | measured | bar | |"
        yield "|---|---:|---|---|"
        for figure in section.figures:
            reason = REASONS.get(figure.name, "") if figure.met is False else ""
            verdict = f"{figure.verdict}: {reason}" if reason else figure.verdict
            yield f"| {figure.name} | {figure.text} | {figure.bar_text} | {verdict} |"
