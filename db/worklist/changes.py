"""Count what has changed since a list was shown. The query is cheap, so that an open page may repeat it often."""

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from db.models import Review, Scan, ScanEvent
from db.states import State

EVENT_LIMIT = 10_000  # events that are counted at most


@dataclass(frozen=True)
class ChangeMarker:
    """The newest event and the newest review at some moment."""

    event: int
    review: int

    def __str__(self) -> str:
        return f"{self.event}-{self.review}"

    @classmethod
    def parse(cls, written: str) -> "ChangeMarker | None":
        event, dash, review = written.partition("-")
        short = max(len(event), len(review)) < 19 and written.isascii()  # within the range of ids
        return cls(int(event), int(review)) if short and dash and event.isdigit() and review.isdigit() else None


@dataclass(frozen=True)
class Changes:
    """`entered`: scans that have entered the list of those to read; `reviewed`: scans with new reviews."""

    entered: int
    reviewed: int


def current_marker(connection: Connection) -> ChangeMarker:
    event = connection.scalar(select(func.max(ScanEvent.id)))
    review = connection.scalar(select(func.max(Review.id)))
    return ChangeMarker(event or 0, review or 0)


def changes_since(connection: Connection, moment: ChangeMarker) -> Changes:
    some = select(ScanEvent.scan_id, ScanEvent.to_state).where(ScanEvent.id > moment.event)
    newest = some.order_by(ScanEvent.id.desc()).limit(EVENT_LIMIT).subquery()
    entered = (
        select(func.count(Scan.id.distinct()))
        .join(newest, newest.c.scan_id == Scan.id)
        .where(newest.c.to_state == State.CLASSIFIED, Scan.worklist_rank.is_not(None), Scan.verdict.is_(None))
    )
    reviewed = select(func.count(Review.scan_id.distinct())).where(Review.id > moment.review)
    return Changes(connection.scalar(entered) or 0, connection.scalar(reviewed) or 0)
