"""Record readers' verdicts, each with the prediction that its reader saw; the newest is copied to the scan.

A review is never changed or removed: the table is its own history. A retracted review no longer counts, and
`retractions` has the time.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, RowMapping, insert, select, update

from db.dialect import dialect_name, insert_or_ignore
from db.models import Prediction, Retraction, Review, Scan
from db.states import WAITING, Verdict
from pneumowatch.errors import ReviewRefused

REVIEWS: Final[Any] = Review.__table__
RETRACTIONS: Final[Any] = Retraction.__table__
NOT_RETRACTED: Final = Review.id.not_in(select(Retraction.review_id))


class ReviewRecord(NamedTuple):
    """One review, with its scan."""

    review_id: int
    scan_id: int
    reviewer: str
    verdict: str
    source: str
    sha256: str | None
    patient_key: str | None
    path: str


def record_verdict(
    connection: Connection,
    scan_id: int,
    verdict: Verdict,
    reviewer: str,
    comment: str | None = None,
    prediction_id: int | None = None,
) -> int:
    """Record a verdict, and return the review's id. A verdict on a duplicate is recorded for its original.

    If the same reader repeats the latest verdict, it is the same review, so that a file of verdicts can be imported
    twice.

    Args:
        prediction_id: the prediction that the reader saw; None: the scan's current one, if it has one.

    Raises:
        ReviewRefused: there is no such scan, it still waits, or the prediction is not one of it.
    """
    original = _original(connection, scan_id)
    seen = _prediction(connection, original, prediction_id)
    latest = _latest(connection, original)
    said = (verdict, reviewer, comment, seen)
    if latest and (latest["verdict"], latest["reviewer"], latest["comment"], latest["prediction_id"]) == said:
        return int(latest["id"])
    at = datetime.now(UTC)
    row = {"scan_id": original, "prediction_id": seen, "verdict": verdict, "reviewer": reviewer, "comment": comment}
    review_id = connection.execute(insert(REVIEWS).values(**row, reviewed_at=at).returning(REVIEWS.c.id)).scalar_one()
    _copy_latest_to_scan(connection, original)
    return int(review_id)


def retract_verdict(connection: Connection, review_id: int, reviewer: str) -> int:
    """Retract a verdict; the one before it counts again. Returns the scan of the review.

    Raises:
        ReviewRefused: there is no such review of this reader.
    """
    scan_id = connection.scalar(select(Review.scan_id).where(Review.id == review_id, Review.reviewer == reviewer))
    if scan_id is None:
        raise ReviewRefused("Only the reader who gave a verdict can retract it.")
    _lock_scan(connection, scan_id)
    row = {"review_id": review_id, "retracted_at": datetime.now(UTC)}
    connection.execute(insert_or_ignore(dialect_name(connection), RETRACTIONS).values(row))
    _copy_latest_to_scan(connection, scan_id)
    return int(scan_id)


def standing_review(connection: Connection, review_id: int, reviewer: str) -> RowMapping | None:
    """Return a review of this reader that was not retracted."""
    one = select(*REVIEWS.c).where(Review.id == review_id, Review.reviewer == reviewer, NOT_RETRACTED)
    return connection.execute(one).mappings().one_or_none()


def standing_reviews(connection: Connection) -> list[ReviewRecord]:
    """Return all reviews that were not retracted, the oldest first.

    Their scans are no duplicates: reviews of duplicates are recorded for their originals.
    """
    columns = (
        Review.id, Review.scan_id, Review.reviewer, Review.verdict, Scan.inbox, Scan.sha256, Scan.patient_key, Scan.path
    )  # fmt: skip
    standing = select(*columns).join(Scan, Scan.id == Review.scan_id).where(NOT_RETRACTED)
    rows = connection.execute(standing.order_by(Review.id))
    return [ReviewRecord(*row) for row in rows]


def lock_latest_review(connection: Connection, scan_id: int) -> tuple[int, int] | None:
    """Lock the scan and return (its original, the newest review that was not retracted, or 0).

    No other review is added until the transaction ends. Returns None if there is no such scan.
    """
    row = connection.execute(select(Scan.id, Scan.duplicate_of).where(Scan.id == scan_id)).one_or_none()
    if row is None:
        return None
    original = int(row.duplicate_of or row.id)
    _lock_scan(connection, original)
    latest = _latest(connection, original)
    return original, int(latest["id"]) if latest else 0


def review_history(connection: Connection, scan_id: int) -> Sequence[RowMapping]:
    """Return all reviews of a scan, the oldest first: their columns, and `retracted_at`.

    For a duplicate, they are those of its original.
    """
    original = connection.scalar(select(Scan.duplicate_of).where(Scan.id == scan_id)) or scan_id
    rows = select(*REVIEWS.c, Retraction.retracted_at).outerjoin(Retraction, Retraction.review_id == Review.id)
    return connection.execute(rows.where(Review.scan_id == original).order_by(Review.id)).mappings().all()


def _original(connection: Connection, scan_id: int) -> int:
    """Return the original of a scan, with its row locked.

    The lock ensures that the verdict copied to the row is that of the newest review.
    """
    columns = (Scan.id, Scan.duplicate_of, Scan.state)
    row = connection.execute(select(*columns).where(Scan.id == scan_id)).one_or_none()
    if row is None:
        raise ReviewRefused(f"There is no scan {scan_id}.")
    if row.state in WAITING:
        raise ReviewRefused(f"Scan {scan_id} has not been processed yet; record the verdict when it has been.")
    original = int(row.duplicate_of or row.id)
    _lock_scan(connection, original)
    return original


def _lock_scan(connection: Connection, scan_id: int) -> None:
    connection.execute(select(Scan.id).where(Scan.id == scan_id).with_for_update(key_share=True)).all()


def _latest(connection: Connection, scan_id: int) -> RowMapping | None:
    """Return the newest review of a scan that was not retracted."""
    reviews = select(*REVIEWS.c).where(Review.scan_id == scan_id, NOT_RETRACTED).order_by(Review.id.desc())
    return connection.execute(reviews.limit(1)).mappings().one_or_none()


def _copy_latest_to_scan(connection: Connection, scan_id: int) -> None:
    latest = _latest(connection, scan_id)
    shown = {column: latest and latest[column] for column in ("verdict", "reviewer", "reviewed_at")}
    connection.execute(update(Scan).where(Scan.id == scan_id).values(shown))


def _prediction(connection: Connection, scan_id: int, prediction_id: int | None) -> int | None:
    of_scan = select(Prediction.id).where(Prediction.scan_id == scan_id)
    if prediction_id is None:
        return connection.scalar(of_scan.where(Prediction.current))
    if connection.scalar(of_scan.where(Prediction.id == prediction_id)) is None:
        raise ReviewRefused(f"Scan {scan_id} has no prediction {prediction_id}.")
    return prediction_id
