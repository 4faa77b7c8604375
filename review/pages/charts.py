"""Geometry of bar charts in SVG units; `templates/charts.html` draws them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

PLOT_WIDTH: Final = 640  # SVG units; the page scales them
PLOT_HEIGHT: Final = 150
BAR_GAP: Final = 0.2  # share of the distance between two bars
MAX_LABELS: Final = 8  # beneath the bars
ROUND_STEPS: Final = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class Bar:
    x: float
    y: float
    width: float
    height: float
    name: str
    value_text: str  # the formatted value
    label: str  # beneath the bar; empty for most


@dataclass(frozen=True)
class Tick:
    y: float
    value_text: str


@dataclass(frozen=True)
class Chart:
    """A bar chart. `summary` describes it in a sentence, for screen readers."""

    title: str
    summary: str
    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]


def bar_chart(
    title: str,
    values: Sequence[tuple[str, float | None]],
    format_value: Callable[[float], str],
    top: float | None = None,
) -> Chart:
    """Return a chart with a bar for each named value, and no bar for None.

    Args:
        format_value: formats a value for people.
        top: upper end of the scale (default: a round number above the largest value).
    """
    known = [value for _, value in values if value is not None]
    height = top or _round_up(max(known, default=0))
    distance = PLOT_WIDTH / max(len(values), 1)
    every = math.ceil(len(values) / MAX_LABELS)
    drawn = []
    for number, (name, value) in enumerate(values):
        size = 0.0 if value is None else PLOT_HEIGHT * min(value / height, 1)
        label = name if number % every == 0 else ""
        value_text = "none" if value is None else format_value(value)
        x = number * distance + distance * BAR_GAP / 2
        drawn.append(Bar(x, PLOT_HEIGHT - size, distance * (1 - BAR_GAP), size, name, value_text, label))
    ticks = tuple(Tick(PLOT_HEIGHT * (1 - share), format_value(height * share)) for share in (0, 0.5, 1))
    return Chart(title, _summary(values, format_value), tuple(drawn), ticks)


def _summary(values: Sequence[tuple[str, float | None]], format_value: Callable[[float], str]) -> str:
    known = [(value, name) for name, value in values if value is not None]
    if not known:
        return "No values."
    (low, low_name), (high, high_name) = min(known), max(known)
    last, last_name = known[-1]
    span = f"From {format_value(low)} ({low_name}) to {format_value(high)} ({high_name})"
    return f"{span}; most recently {format_value(last)} ({last_name})."


def _round_up(value: float) -> float:
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return power * next(step for step in ROUND_STEPS if step * power >= value)
