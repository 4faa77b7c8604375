"""One case as its reader sees it: the scan, its predictions, reviews and events, and related scans.

A duplicate shows the result of its original, and a verdict on it is recorded for the original.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, RowMapping, or_, select

from db.models import Prediction, Scan, ScanEvent
from db.states import WAITING, State
from db.worklist import verdicts

SCANS: Final[Any] = Scan.__table__
PREDICTIONS: Final[Any] = Prediction.__table__
EVENTS: Final[Any] = ScanEvent.__table__
MAX_LISTED: Final = 200  # events, or related scans, on a page


class Related(NamedTuple):
    """Another scan of the same study or patient."""

    id: int
    state: str
    received_at: datetime
    view_position: str | None
    verdict: str | None
    same_study: bool


@dataclass(frozen=True)
class Case:
    """A scan with everything that its page shows.

    `scan`: all columns of the requested scan. `result`: those of the scan that owns its content, which is another one
    for a duplicate.
    """

    scan: RowMapping
    result: RowMapping
    predictions: Sequence[RowMapping]  # of all models, the newest first
    reviews: Sequence[RowMapping]  # from `db.worklist.verdicts.review_history`
    events: Sequence[RowMapping]  # the newest first
    related: Sequence[Related]

    @property
    def waiting(self) -> bool:
        return self.scan["state"] in WAITING

    @property
    def scored(self) -> bool:
        return self.result["state"] == State.CLASSIFIED

    @property
    def current(self) -> RowMapping | None:
        """The current prediction."""
        return next((one for one in self.predictions if one["current"]), None)

    @property
    def standing_reviews(self) -> Sequence[RowMapping]:
        """Each reader's last review that was not retracted, the oldest first."""
        last = {one["reviewer"]: one for one in self.reviews if one["retracted_at"] is None}
        return sorted(last.values(), key=lambda one: int(one["id"]))

    @property
    def disputed(self) -> bool:
        """Whether readers disagree."""
        return len({one["verdict"] for one in self.standing_reviews}) > 1

    def review_by(self, reviewer: str) -> RowMapping | None:
        """Return a reader's last review, if it was not retracted."""
        return next((one for one in self.standing_reviews if one["reviewer"] == reviewer), None)

    def result_visible_to(self, reviewer: str) -> bool:
        """Tell whether this reader may see the result.

        The result of a scan that is read blind is visible once the reader has given a verdict, even a retracted one.
        """
        return not self.result["hidden_until_verdict"] or any(one["reviewer"] == reviewer for one in self.reviews)


def get_case(connection: Connection, scan_id: int) -> Case | None:
    """Return the case of a scan, or None if there is no such scan."""
    scan = _scan(connection, scan_id)
    if scan is None:
        return None
    result = (scan["duplicate_of"] and _scan(connection, scan["duplicate_of"])) or scan
    predictions = select(*PREDICTIONS.c).where(Prediction.scan_id == result["id"]).order_by(Prediction.id.desc())
    events = select(*EVENTS.c).where(ScanEvent.scan_id == scan_id).order_by(ScanEvent.id.desc()).limit(MAX_LISTED)
    return Case(
        scan,
        result,
        connection.execute(predictions).mappings().all(),
        verdicts.review_history(connection, scan_id),
        connection.execute(events).mappings().all(),
        _related(connection, scan),
    )


def _scan(connection: Connection, scan_id: int) -> RowMapping | None:
    return connection.execute(select(*SCANS.c).where(Scan.id == scan_id)).mappings().one_or_none()


def _related(connection: Connection, scan: RowMapping) -> Sequence[Related]:
    """Return related scans: those of the study, then the patient's others, the newest first.

    Superseded scans and duplicates are left out.
    """
    study, patient = scan["study_uid"], scan["patient_key"]
    same = [column == value for column, value in ((Scan.study_uid, study), (Scan.patient_key, patient)) if value]
    if not same:
        return []
    columns = (Scan.id, Scan.state, Scan.received_at, Scan.view_position, Scan.verdict, Scan.study_uid)
    others = (or_(*same), Scan.id != scan["id"], Scan.superseded_by.is_(None), Scan.state != State.DUPLICATE)
    # sorted here: the database would read the table in that order to find a few rows
    rows = connection.execute(select(*columns).where(*others).limit(MAX_LISTED))
    found = [Related(*row[:-1], same_study=row.study_uid is not None and row.study_uid == study) for row in rows]
    return sorted(found, key=lambda one: (not one.same_study, -one.id))
