"""Statistics of the overview: arrivals, flagged scans, and the agreement between readers and the model.

Every query is bounded by days or hours, and reads an index within them.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Connection, Integer, case, cast, func, select

from db.dialect import dialect_name, force_custom_plans
from db.ledger.statements import in_state
from db.models import Review, Scan
from db.states import State, Verdict
from db.worklist.verdicts import NOT_RETRACTED

DRAWS: Final = 4000  # samples per interval
SEED: Final = 1  # fixed, so that the same verdicts give the same intervals
TAIL: Final = 0.025  # on either side, for intervals of 95 %
PRIOR: Final = 0.5  # Jeffreys' prior: the interval is valid even for shares of 0 or 1
LABEL_VERDICTS: Final = (Verdict.PNEUMONIA, Verdict.NO_PNEUMONIA)  # the verdicts that are labels
HOUR: Final = 3600  # seconds


class Day(NamedTuple):
    """The scans that arrived on one day, UTC: how many have a result, and how many of those are flagged."""

    day: date
    classified: int
    flagged: int


class Interval(NamedTuple):
    """A share with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Stratum:
    """The flagged scans of a period, or the others.

    `images` arrived, and `reviewed` of them have a verdict that is a label. `pneumonia` and `no_pneumonia` are sums
    over these, each scan weighted by how many it represents.
    """

    images: int
    reviewed: int
    pneumonia: float
    no_pneumonia: float

    @property
    def share_with_pneumonia(self) -> float:
        return self.pneumonia / (self.pneumonia + self.no_pneumonia)

    def draw_share(self, source: random.Random) -> float:
        """Draw a share of ill patients from the posterior distribution, given these verdicts."""
        return source.betavariate(
            self.share_with_pneumonia * self.reviewed + PRIOR, (1 - self.share_with_pneumonia) * self.reviewed + PRIOR
        )


@dataclass(frozen=True)
class Agreement:
    """The agreement between readers and the model, over scans of a period with a verdict that is a label.

    `sensitivity` and `specificity` need verdicts on flagged scans and on the hidden sample, which represents all scans
    that were not flagged; None: not measurable. `precision` needs verdicts on flagged scans alone.
    """

    flagged: Stratum
    unflagged: Stratum
    sampled: int  # scans in the hidden sample
    sensitivity: Interval | None
    specificity: Interval | None
    precision: Interval | None


class Disagreement(NamedTuple):
    """`several`: scans that more than one reader reviewed; `differ`: those of them whose last verdicts differ."""

    several: int
    differ: int
    scan_ids: list[int]  # the newest that differ


def counts_by_day(connection: Connection, days: int) -> list[Day]:
    """Return the last `days` days, today included, the oldest first; days without scans are included with zeros."""
    force_custom_plans(connection)
    today = datetime.now(UTC).date()
    first = today - timedelta(days=days - 1)
    day = func.date(Scan.received_at).label("day")
    rows = connection.execute(
        select(day, func.count(), _number(Scan.flagged))
        .where(Scan.received_at >= _midnight(first), in_state(State.CLASSIFIED))
        .group_by(day)
    )
    found = {str(at): (classified, flagged) for at, classified, flagged in rows}
    all_days = [first + timedelta(days=number) for number in range(days)]
    return [Day(one, *found.get(one.isoformat(), (0, 0))) for one in all_days]


def recent_counts_by_source(connection: Connection, days: int) -> dict[str, dict[State, int]]:
    """Return {source: {state: scans}} of the last `days` days' arrivals; every state is included."""
    force_custom_plans(connection)
    first = datetime.now(UTC).date() - timedelta(days=days - 1)
    rows = connection.execute(
        select(Scan.inbox, Scan.state, func.count())
        .where(Scan.received_at >= _midnight(first))
        .group_by(Scan.inbox, Scan.state)
    )
    found: dict[str, dict[State, int]] = {}
    for inbox, state, number in rows:
        found.setdefault(inbox, dict.fromkeys(State, 0))[State(state)] = number
    return dict(sorted(found.items()))


def finished_by_hour(connection: Connection, hours: int = 24) -> list[tuple[datetime, int]]:
    """Return (start, scans that finished within that hour) for each hour back from now, the oldest first."""
    force_custom_plans(connection)
    now = datetime.now(UTC).replace(microsecond=0)
    back = _hours_back(connection, now).label("back")
    rows = connection.execute(
        # not counted: what arrived more than a week before the period and finished in it, since no index finds it
        select(back, func.count())
        .where(Scan.received_at >= now - timedelta(hours=hours, days=7))
        .where(Scan.finished_at > now - timedelta(hours=hours), Scan.finished_at <= now)
        .group_by(back)
    )
    found: Counter[int] = Counter()
    for number, images in rows:
        found[number] += images
    return [(now - timedelta(hours=number + 1), found[number]) for number in reversed(range(hours))]


def agreement(connection: Connection, days: int) -> Agreement:
    """Measure the agreement over scans that arrived within the last `days` days."""
    force_custom_plans(connection)
    arrived = (Scan.received_at >= _midnight(datetime.now(UTC).date() - timedelta(days=days - 1)),)
    counted = select(Scan.flagged, func.count()).where(*arrived, in_state(State.CLASSIFIED)).group_by(Scan.flagged)
    images = {bool(flagged): number for flagged, number in connection.execute(counted)}
    sampled = connection.scalar(select(func.count()).select_from(Scan).where(*arrived, Scan.sampled_share.is_not(None)))
    flagged = _stratum(connection, images.get(True, 0), [*arrived, Scan.flagged.is_(True)])
    unflagged = _stratum(connection, images.get(False, 0), [*arrived, Scan.sampled_share.is_not(None)])
    return agreement_between(flagged, unflagged, sampled or 0)


def agreement_between(flagged: Stratum, unflagged: Stratum, sampled: int = 0) -> Agreement:
    """Calculate the measures, and their intervals by sampling the shares of ill patients."""
    precision = (
        _interval(flagged.share_with_pneumonia, _sorted_draws(flagged, lambda pneumonia: pneumonia))
        if flagged.reviewed
        else None
    )
    if not flagged.reviewed or not unflagged.reviewed:
        return Agreement(flagged, unflagged, sampled, None, None, precision)
    source = random.Random(SEED)
    pairs = [(flagged.draw_share(source), unflagged.draw_share(source)) for _ in range(DRAWS)]
    sensitivity = [
        _detected_share(flagged.images * pneumonia, unflagged.images * missed) for pneumonia, missed in pairs
    ]
    specificity = [
        _detected_share(unflagged.images * (1 - missed), flagged.images * (1 - pneumonia))
        for pneumonia, missed in pairs
    ]
    pneumonia, missed = flagged.share_with_pneumonia, unflagged.share_with_pneumonia
    return Agreement(
        flagged,
        unflagged,
        sampled,
        _interval(_detected_share(flagged.images * pneumonia, unflagged.images * missed), sorted(sensitivity)),
        _interval(
            _detected_share(unflagged.images * (1 - missed), flagged.images * (1 - pneumonia)), sorted(specificity)
        ),
        precision,
    )


def disagreement(connection: Connection, days: int, listed: int = 20) -> Disagreement:
    """Find scans reviewed within the last `days` days on which readers disagree; the newest `listed` are listed."""
    since = _midnight(datetime.now(UTC).date() - timedelta(days=days - 1))
    rows = connection.execute(
        select(Review.scan_id, Review.reviewer, Review.verdict)
        .where(Review.id > _last_review(since), NOT_RETRACTED)
        .order_by(Review.id)
    )
    words: dict[int, dict[str, str]] = {}
    for scan_id, reviewer, verdict in rows:
        words.setdefault(scan_id, {})[reviewer] = verdict
    several = {scan_id: said for scan_id, said in words.items() if len(said) > 1}
    differ = [scan_id for scan_id, said in several.items() if len(set(said.values())) > 1]
    return Disagreement(len(several), len(differ), differ[::-1][:listed])


def _last_review(since: datetime) -> Any:
    """Return SQL for the id of the last review before `since`, 0 if there is none.

    Reviews never change and their ids follow their times, so the key replaces an index on the time.
    """
    newest_before = select(Review.id).where(Review.reviewed_at < since).order_by(Review.id.desc()).limit(1)
    return func.coalesce(newest_before.scalar_subquery(), 0)


def _stratum(connection: Connection, images: int, where: Sequence[ColumnElement[bool]]) -> Stratum:
    weight = 1 / func.coalesce(Scan.sampled_share, 1.0)
    rows = connection.execute(
        select(Scan.verdict, func.count(), func.sum(weight))
        .where(*where, in_state(State.CLASSIFIED), Scan.verdict.in_(LABEL_VERDICTS))
        .group_by(Scan.verdict)
    ).all()
    counts = {verdict: (number, float(weight_sum)) for verdict, number, weight_sum in rows}
    (pneumonia, pneumonia_weight), (no_pneumonia, no_pneumonia_weight) = (
        counts.get(verdict, (0, 0.0)) for verdict in LABEL_VERDICTS
    )
    return Stratum(images, pneumonia + no_pneumonia, pneumonia_weight, no_pneumonia_weight)


def _detected_share(found: float, missed: float) -> float:
    return found / (found + missed) if found + missed else 0.0


def _sorted_draws(stratum: Stratum, measure: Any) -> list[float]:
    source = random.Random(SEED)
    return sorted(measure(stratum.draw_share(source)) for _ in range(DRAWS))


def _interval(value: float, draws: list[float]) -> Interval:
    low, high = draws[round(TAIL * len(draws))], draws[round((1 - TAIL) * len(draws)) - 1]
    return Interval(value, min(low, value), max(high, value))


def _number(condition: Any) -> Any:
    return func.sum(case((condition, 1), else_=0))


def _hours_back(connection: Connection, now: datetime) -> Any:
    """Return SQL for the whole hours between a scan's end and `now`, which is in whole seconds."""
    at = round(now.timestamp())
    if dialect_name(connection) == "postgresql":
        return cast(func.floor((at - func.extract("epoch", Scan.finished_at)) / HOUR), Integer)
    return (at - cast(func.strftime("%s", Scan.finished_at), Integer)) // HOUR


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
