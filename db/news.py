"""What has happened since a list was shown: cheap to ask, so that a page that stands open may ask often."""

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from db.models import Review, Scan, ScanEvent
from db.states import State

LOOKED_AT = 10_000  # events; beyond, there is news enough


@dataclass(frozen=True)
class Moment:
    """The newest event and the newest review of that moment."""

    event: int
    review: int

    def __str__(self) -> str:
        return f"{self.event}-{self.review}"

    @classmethod
    def parse(cls, written: str) -> "Moment | None":
        event, dash, review = written.partition("-")
        short = max(len(event), len(review)) < 19 and written.isascii()  # as the database counts
        return cls(int(event), int(review)) if short and dash and event.isdigit() and review.isdigit() else None


@dataclass(frozen=True)
class News:
    """`entered`: films that wait for a reader now and did not; `judged`: verdicts."""

    entered: int
    judged: int


def now(connection: Connection) -> Moment:
    event = connection.scalar(select(func.max(ScanEvent.id)))
    review = connection.scalar(select(func.max(Review.id)))
    return Moment(event or 0, review or 0)


def since(connection: Connection, moment: Moment) -> News:
    some = select(ScanEvent.scan_id, ScanEvent.to_state).where(ScanEvent.id > moment.event)
    newest = some.order_by(ScanEvent.id.desc()).limit(LOOKED_AT).subquery()
    entered = (
        select(func.count(Scan.id.distinct()))
        .join(newest, newest.c.scan_id == Scan.id)
        .where(newest.c.to_state == State.CLASSIFIED, Scan.worklist_rank.is_not(None), Scan.verdict.is_(None))
    )
    judged = select(func.count(Review.scan_id.distinct())).where(Review.id > moment.review)
    return News(connection.scalar(entered) or 0, connection.scalar(judged) or 0)
