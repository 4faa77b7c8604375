"""Geometry of charts."""

import pytest

from review.pages.charts import MAX_LABELS, PLOT_HEIGHT, PLOT_WIDTH, bar_chart


def tell(value: float) -> str:
    return f"{value:g}"


def test_bars_fill_the_plane_in_their_proportion() -> None:
    chart = bar_chart("Images", [("a", 5.0), ("b", 10.0), ("c", None), ("d", 0.0)], tell)
    assert [bar.height for bar in chart.bars] == [PLOT_HEIGHT / 2, PLOT_HEIGHT, 0, 0]
    assert all(bar.y + bar.height == PLOT_HEIGHT for bar in chart.bars)
    assert all(bar.x >= 0 and bar.x + bar.width <= PLOT_WIDTH for bar in chart.bars)
    assert [bar.value_text for bar in chart.bars] == ["5", "10", "none", "0"]
    assert [tick.value_text for tick in chart.ticks] == ["0", "5", "10"]
    assert chart.summary == "From 0 (d) to 10 (b); most recently 0 (d)."


@pytest.mark.parametrize(("most", "top"), [(0.0, 1), (0.03, 0.05), (1.0, 1), (7.0, 10), (11.0, 20), (999.0, 1000)])
def test_the_scale_ends_at_a_round_number(most: float, top: float) -> None:
    assert float(bar_chart("", [("a", most)], tell).ticks[-1].value_text) == pytest.approx(top)


@pytest.mark.parametrize("count", [0, 1, 7, 24, 90])
def test_few_labels_however_many_bars(count: int) -> None:
    chart = bar_chart("", [(str(number), 1.0) for number in range(count)], tell, top=1.0)
    assert len(chart.bars) == count
    assert sum(bool(bar.label) for bar in chart.bars) <= MAX_LABELS


def test_nothing_to_draw() -> None:
    assert bar_chart("", [("a", None)], tell).summary == "No values."
