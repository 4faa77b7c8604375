"""Rescoring: add predictions of another model to classified scans, and choose which one is shown.

No scan changes its state, and no prediction is ever changed or lost. One prediction of a scan is current, and the
scan's row repeats it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, bindparam, func, insert, select, update
from sqlalchemy.sql.elements import ColumnElement

from db.dialect import dialect_name, insert_or_ignore
from db.ledger.outcomes import Classified
from db.ledger.sampling import WorklistEntry, worklist_entry
from db.ledger.statements import in_state
from db.models import Prediction, Scan, ScanEvent
from db.states import State
from pneumowatch.inboxes import UPLOADS

_SCANS: Final[Any] = Scan.__table__
_PREDICTIONS: Final[Any] = Prediction.__table__


@dataclass(frozen=True)
class RescoreCandidate:
    """A classified scan: where its file was, and the hash of the bytes that were classified."""

    id: int
    inbox: str
    path_bytes: bytes
    sha256: str
    age_years: float | None


def rescore_counts(connection: Connection, version: str) -> tuple[int, int]:
    """Return the number of classified scans, and how many of them have no prediction by this model."""
    classified = connection.scalar(select(func.count()).where(in_state(State.CLASSIFIED))) or 0
    unscored = connection.scalar(select(func.count()).select_from(Scan).where(*_unscored_by(version))) or 0
    return classified, unscored


def unscored_by(connection: Connection, version: str, after: int, limit: int) -> list[RescoreCandidate]:
    """Return the first classified scans after the id `after` without a prediction by this model, sorted by id."""
    columns = (_SCANS.c[name] for name in ("id", "inbox", "path_bytes", "sha256", "age_years"))
    chosen = select(*columns).where(*_unscored_by(version), Scan.id > after).order_by(Scan.id).limit(limit)
    return [RescoreCandidate(*row) for row in connection.execute(chosen)]


def add_predictions(connection: Connection, outcomes: Sequence[Classified]) -> int:
    """Add predictions, none of them current. Returns how many were new."""
    at, new = datetime.now(UTC), 0
    for outcome in sorted(outcomes, key=lambda outcome: outcome.scan_id):
        row = {
            "scan_id": outcome.scan_id,
            "model_version": outcome.model_version,
            "probability": outcome.probability,
            "threshold": outcome.threshold,
            "flagged": outcome.flagged,
            "gate_score": outcome.gate_score,
            "brightness": outcome.brightness,
            "current": False,
            "made_at": at,
        }
        insertion = insert_or_ignore(dialect_name(connection), _PREDICTIONS).values(row).returning(_PREDICTIONS.c.id)
        new += connection.scalar(insertion) is not None
    return new


def make_current(
    connection: Connection,
    version: str,
    limit: int,
    by: str,
    caution: Callable[[float | None], str | None],
    sample_unflagged: float = 0.0,
) -> int:
    """Make this model's predictions current for up to `limit` scans, each with an event. Returns how many.

    Args:
        caution: returns the caution on the model's results for an age in years.
        sample_unflagged: the share of unflagged scans that enter the worklist.
    """
    rows = connection.execute(
        select(
            Prediction.scan_id,
            Prediction.probability,
            Prediction.threshold,
            Prediction.flagged,
            Scan.age_years,
            Scan.sha256,
            Scan.inbox,
        )
        .join(Scan, Scan.id == Prediction.scan_id)
        .where(Prediction.model_version == version, Prediction.current.is_(False), in_state(State.CLASSIFIED))
        .order_by(Prediction.scan_id)
        .limit(limit)
        .with_for_update()
    ).all()
    if not rows:
        return 0
    ids = [row.scan_id for row in rows]
    # the old one first: a scan must never have two current ones
    connection.execute(update(Prediction).where(Prediction.scan_id.in_(ids), Prediction.current).values(current=False))
    connection.execute(
        update(Prediction).where(Prediction.scan_id.in_(ids), Prediction.model_version == version).values(current=True)
    )
    copied = ("probability", "threshold", "flagged", "caution", *WorklistEntry._fields)
    connection.execute(
        update(_SCANS)
        .where(_SCANS.c.id == bindparam("scan"))
        .values(model_version=version, **{column: bindparam(f"new_{column}") for column in copied}),
        [
            {
                "scan": row.scan_id,
                "new_probability": row.probability,
                "new_threshold": row.threshold,
                "new_flagged": row.flagged,
                "new_caution": caution(row.age_years),
                **{
                    f"new_{column}": value
                    for column, value in worklist_entry(
                        row.sha256 or "",
                        row.probability,
                        row.flagged,
                        row.threshold,
                        0.0
                        if row.inbox == UPLOADS
                        else sample_unflagged,  # as in `db.ledger.statements.mark_classified`
                    )
                    ._asdict()
                    .items()
                },
            }
            for row in rows
        ],
    )
    event = {"from_state": State.CLASSIFIED, "to_state": State.CLASSIFIED, "at": datetime.now(UTC), "by": by}
    event["detail"] = f"shows the prediction of the model {version}"
    connection.execute(insert(ScanEvent), [{"scan_id": scan_id, **event} for scan_id in ids])
    return len(ids)


def _unscored_by(version: str) -> tuple[ColumnElement[bool], ...]:
    scored = select(Prediction.id).where(Prediction.scan_id == Scan.id, Prediction.model_version == version)
    return in_state(State.CLASSIFIED), Scan.sha256.is_not(None), ~scored.exists()
