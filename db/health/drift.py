"""Drift: whether a source's images still look to the model like those that it was evaluated on.

The measure is the population stability index, for three quantities: the model's probability, its input gate's score
(`gate_score`) and the images' mean gray level (`brightness`). It is the sum of (share now - share then) * ln(share now
/ share then) over ten bins that held a tenth of the reference each (Siddiqi, Credit Risk Scorecards, 2006). Below 0.1
nothing has moved; above 0.25 it has. The reference is in the model's card: images of validation patients, as the
trainer's `reference` writes it.

Each quantity detects what the others miss. The probability also moves with the patients. A network trained to ignore
gray levels keeps its gate score when another scanner's curve moves the brightness of all images: with a gamma of 0.8
the shipped network's index is 0.1, that of brightness 0.9.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from math import log
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, literal_column, select

from db.ledger.statements import in_state
from db.models import Prediction, Scan
from db.states import FINAL, State

DRIFT_WINDOW: Final = 200  # the last images of a source
MIN_DRIFT_IMAGES: Final = 100  # with fewer, chance alone moves the index by 0.1
QUANTITIES: Final = ("probability", "gate_score", "brightness")
EMPTY_BIN_COUNT: Final = 0.5  # images that an empty bin counts as


class RecentPrediction(NamedTuple):
    """The prediction for one image; `gate_score` and `brightness` are None where an earlier version made it."""

    probability: float
    gate_score: float | None
    brightness: float | None
    flagged: bool
    model_version: str


def recent_predictions(connection: Connection, source: str) -> Sequence[RecentPrediction]:
    """Return the current predictions of a source's last DRIFT_WINDOW classified scans, without duplicates."""
    # both conditions: SQLite uses the partial index on the final states with neither of them alone
    classified = (in_state(*FINAL), Scan.state == literal_column(f"'{State.CLASSIFIED}'"))
    newest = (
        select(Scan.id).where(Scan.inbox == source, *classified).order_by(Scan.finished_at.desc()).limit(DRIFT_WINDOW)
    )
    last = newest.subquery()
    columns = (getattr(Prediction, name) for name in RecentPrediction._fields)
    joined = select(*columns).join(last, last.c.id == Prediction.scan_id).where(Prediction.current)
    return [RecentPrediction(*row) for row in connection.execute(joined)]


def stability_indexes(
    predictions: Sequence[RecentPrediction], version: str, card: Mapping[str, Any]
) -> dict[str, float]:
    """Return {quantity: its index}, of predictions by this model; only quantities that are measurable."""
    reference = card.get("reference") or {}
    indexes = {}
    for quantity in QUANTITIES:
        values = [getattr(one, quantity) for one in predictions if one.model_version == version]
        known = [value for value in values if value is not None]
        if reference.get(quantity) and len(known) >= MIN_DRIFT_IMAGES:
            indexes[quantity] = stability_index(reference[quantity]["edges"], reference[quantity]["shares"], known)
    return indexes


def stability_index(edges: Sequence[float], shares: Sequence[float], values: Sequence[float]) -> float:
    """Return the population stability index of values.

    Args:
        edges: between the bins, ascending; a value on an edge belongs to the upper bin.
        shares: of the reference in each bin, one more than edges.
    """
    counts = [0] * len(shares)
    for value in values:
        counts[bisect_right(edges, value)] += 1
    total = sum(count or EMPTY_BIN_COUNT for count in counts)
    now = [(count or EMPTY_BIN_COUNT) / total for count in counts]
    return sum((new - old) * log(new / old) for new, old in zip(now, shares, strict=True))
