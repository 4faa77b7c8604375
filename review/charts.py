"""Charts as inline SVG: the geometry is worked out here, `templates/charts.html` draws it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 640  # of the plane, in SVG units; the page scales it
HEIGHT: Final = 150
GAP: Final = 0.2  # between bars, as a share of their distance
LABELS: Final = 8  # beneath the plane, at most
STEPS: Final = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class Bar:
    x: float
    y: float
    width: float
    height: float
    name: str
    told: str  # its value, for people
    label: str  # beneath it; empty for most


@dataclass(frozen=True)
class Tick:
    y: float
    told: str


@dataclass(frozen=True)
class Chart:
    """`summary`: what the chart says, for those who do not see it."""

    title: str
    summary: str
    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]


def bars(
    title: str,
    values: Sequence[tuple[str, float | None]],
    tell: Callable[[float], str],
    top: float | None = None,
) -> Chart:
    """A bar for each named value, none where it is None.

    Args:
        tell: a value for people.
        top: of the scale (default: a round number above the largest value).
    """
    known = [value for _, value in values if value is not None]
    height = top or _round_above(max(known, default=0))
    distance = WIDTH / max(len(values), 1)
    every = math.ceil(len(values) / LABELS)
    drawn = []
    for number, (name, value) in enumerate(values):
        size = 0.0 if value is None else HEIGHT * min(value / height, 1)
        label = name if number % every == 0 else ""
        told = "none" if value is None else tell(value)
        x = number * distance + distance * GAP / 2
        drawn.append(Bar(x, HEIGHT - size, distance * (1 - GAP), size, name, told, label))
    ticks = tuple(Tick(HEIGHT * (1 - share), tell(height * share)) for share in (0, 0.5, 1))
    return Chart(title, _summary(values, tell), tuple(drawn), ticks)


def _summary(values: Sequence[tuple[str, float | None]], tell: Callable[[float], str]) -> str:
    known = [(value, name) for name, value in values if value is not None]
    if not known:
        return "No values."
    (low, low_name), (high, high_name) = min(known), max(known)
    last, last_name = known[-1]
    return f"From {tell(low)} ({low_name}) to {tell(high)} ({high_name}); most recently {tell(last)} ({last_name})."


def _round_above(value: float) -> float:
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return power * next(step for step in STEPS if step * power >= value)
