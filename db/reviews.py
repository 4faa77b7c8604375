"""Verdicts of readers: each one kept with the prediction that its reader saw, the newest one copied to the scan.

A review is never changed nor removed: the table is its own record of who said what, and when.
"""

from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, insert, select, update

from db.models import Prediction, Review, Scan
from db.states import WAITING, Verdict
from pneumowatch.errors import ReviewRefused

REVIEWS: Final[Any] = Review.__table__


class Judged(NamedTuple):
    """Where the film of a judged scan may be found."""

    id: int
    inbox: str
    path_bytes: bytes
    sha256: str | None


def record(
    connection: Connection,
    scan_id: int,
    verdict: Verdict,
    reviewer: str,
    comment: str | None = None,
    prediction_id: int | None = None,
) -> int:
    """Record a verdict, and return the review's id. What is said of a duplicate is said of its original.

    Said again by the same reader with nobody in between, it is the same review: a file of verdicts can be read twice.

    Args:
        prediction_id: the prediction that the reader saw; None: the scan's current one, where it has one.

    Raises:
        ReviewRefused: there is no such scan, it still waits, or the prediction is not one of it.
    """
    original = _original(connection, scan_id)
    seen = _prediction(connection, original, prediction_id)
    latest = connection.execute(
        select(*REVIEWS.c).where(Review.scan_id == original).order_by(Review.id.desc()).limit(1)
    ).one_or_none()
    said = (verdict, reviewer, comment, seen)
    if latest and (latest.verdict, latest.reviewer, latest.comment, latest.prediction_id) == said:
        return int(latest.id)
    at = datetime.now(UTC)
    row = {"scan_id": original, "prediction_id": seen, "verdict": verdict, "reviewer": reviewer, "comment": comment}
    review_id = connection.execute(insert(REVIEWS).values(**row, reviewed_at=at).returning(REVIEWS.c.id)).scalar_one()
    current = {"verdict": verdict, "reviewer": reviewer, "reviewed_at": at}
    connection.execute(update(Scan).where(Scan.id == original).values(current))
    return int(review_id)


def places(connection: Connection, scan_id: int) -> list[Judged]:
    """The original of a scan, and its duplicates: wherever its bytes stood when they were read."""
    columns = (Scan.id, Scan.inbox, Scan.path_bytes, Scan.sha256)
    original = connection.scalar(select(Scan.duplicate_of).where(Scan.id == scan_id)) or scan_id
    rows = connection.execute(
        select(*columns).where((Scan.id == original) | (Scan.duplicate_of == original)).order_by(Scan.id)
    )
    return [Judged(*row) for row in rows]


def _original(connection: Connection, scan_id: int) -> int:
    """Its row held, so that the verdict copied to it is that of the newest review."""
    columns = (Scan.id, Scan.duplicate_of, Scan.state)
    row = connection.execute(select(*columns).where(Scan.id == scan_id)).one_or_none()
    if row is None:
        raise ReviewRefused(f"There is no scan {scan_id}.")
    if row.state in WAITING:
        raise ReviewRefused(f"Scan {scan_id} has not been read yet; judge it when it has.")
    original = int(row.duplicate_of or row.id)
    connection.execute(select(Scan.id).where(Scan.id == original).with_for_update(key_share=True)).all()
    return original


def _prediction(connection: Connection, scan_id: int, prediction_id: int | None) -> int | None:
    of_scan = select(Prediction.id).where(Prediction.scan_id == scan_id)
    if prediction_id is None:
        return connection.scalar(of_scan.where(Prediction.current))
    if connection.scalar(of_scan.where(Prediction.id == prediction_id)) is None:
        raise ReviewRefused(f"Scan {scan_id} has no prediction {prediction_id}.")
    return prediction_id
