"""Geometry of charts."""

import pytest

from review.charts import HEIGHT, LABELS, WIDTH, bars


def tell(value: float) -> str:
    return f"{value:g}"


def test_bars_fill_the_plane_in_their_proportion() -> None:
    chart = bars("Films", [("a", 5.0), ("b", 10.0), ("c", None), ("d", 0.0)], tell)
    assert [bar.height for bar in chart.bars] == [HEIGHT / 2, HEIGHT, 0, 0]
    assert all(bar.y + bar.height == HEIGHT for bar in chart.bars)
    assert all(bar.x >= 0 and bar.x + bar.width <= WIDTH for bar in chart.bars)
    assert [bar.told for bar in chart.bars] == ["5", "10", "none", "0"]
    assert [tick.told for tick in chart.ticks] == ["0", "5", "10"]
    assert chart.summary == "From 0 (d) to 10 (b); most recently 0 (d)."


@pytest.mark.parametrize(("most", "top"), [(0.0, 1), (0.03, 0.05), (1.0, 1), (7.0, 10), (11.0, 20), (999.0, 1000)])
def test_the_scale_ends_at_a_round_number(most: float, top: float) -> None:
    assert float(bars("", [("a", most)], tell).ticks[-1].told) == pytest.approx(top)


@pytest.mark.parametrize("count", [0, 1, 7, 24, 90])
def test_few_labels_however_many_bars(count: int) -> None:
    chart = bars("", [(str(number), 1.0) for number in range(count)], tell, top=1.0)
    assert len(chart.bars) == count
    assert sum(bool(bar.label) for bar in chart.bars) <= LABELS


def test_nothing_to_draw() -> None:
    assert bars("", [("a", None)], tell).summary == "No values."
