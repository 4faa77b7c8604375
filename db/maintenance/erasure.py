"""Erase the data of a patient or a scan on request, for good, while the ledger stays closed.

A tombstone of each file stays (`db.ledger.transitions.erase_scans`), so that it is counted and not registered again
while it is in its folder. A row in the audit stays as well.
"""

import os
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Select, delete, false, func, or_, select

from db.ledger import transitions
from db.models import Content, Outbox, Prediction, Retraction, Review, Scan
from db.session import Database
from db.states import State
from db.worklist import audit
from db.worklist.audit import AuditAction
from pneumowatch import inboxes
from pneumowatch.errors import ErasureRefused
from pneumowatch.imaging import image_store
from pneumowatch.settings import Settings


@dataclass(frozen=True)
class ErasureScope:
    """The data of a patient: scans, and the rows and files that belong to them. No names."""

    scan_ids: tuple[int, ...]
    states: dict[str, int]
    predictions: int
    reviews: int
    notifications: int
    images: tuple[Path, ...]  # kept images, and their maps
    uploads: tuple[Path, ...]  # files that were uploaded in the review app
    hashes: tuple[str, ...]  # of the files' bytes
    patient_key: str | None  # the patient whose data is erased, if one was given

    @property
    def running(self) -> int:
        return self.states.get(State.RUNNING, 0)


def find_erasure_scope(
    connection: Connection, settings: Settings, patient_key: str | None = None, scan_ids: Sequence[int] = ()
) -> ErasureScope:
    """Find the scans of this patient and of these ids, and all with the same content: originals and duplicates.

    Raises ErasureRefused if there is none.
    """
    ids = _selected_ids(connection, patient_key, scan_ids)
    rows = connection.execute(
        select(Scan.id, Scan.inbox, Scan.path_bytes, Scan.sha256, Scan.state).where(Scan.id.in_(ids)).order_by(Scan.id)
    ).all()
    if not rows:
        raise ErasureRefused("There is no such scan, and no scan of such a patient.")
    states: dict[str, int] = {}
    for row in rows:
        states[row.state] = states.get(row.state, 0) + 1
    hashes = sorted({row.sha256 for row in rows if row.sha256})
    uploaded = [row.path_bytes for row in rows if row.inbox == inboxes.UPLOADS and row.path_bytes]
    return ErasureScope(
        tuple(row.id for row in rows),
        states,
        _count(connection, _rows_of(Prediction, ids)),
        _count(connection, _rows_of(Review, ids)),
        _count(connection, _rows_of(Outbox, ids)),
        tuple(_existing(image_store.image_path(settings.data_dir, sha256) for sha256 in hashes)),
        tuple(_existing(inboxes.uploads_folder(settings) / os.fsdecode(name) for name in uploaded)),
        tuple(hashes),
        patient_key,
    )


def erase_scope(database: Database, scope: ErasureScope, by: str) -> int:
    """Delete files first, then rows in one transaction. Returns how many scans were erased.

    After an interruption in between it can be repeated.

    Raises ErasureRefused if a scan is being processed, the scope has grown meanwhile, or a file cannot be deleted.
    """
    if scope.running:
        raise ErasureRefused(f"{scope.running} of these scans are being processed; try again in a minute.")
    database.read(lambda connection: _require_unchanged(connection, scope))
    try:
        for path in (*scope.images, *scope.uploads):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise ErasureRefused(
            f"A file of these scans cannot be deleted: {error.strerror}. No rows were erased; fix this, and repeat it."
        ) from error
    erased = database.write(lambda connection: _erase_rows(connection, scope, by))
    if database.dialect == "sqlite":
        _truncate_wal(database)
    return len(erased)


def _erase_rows(connection: Connection, scope: ErasureScope, by: str) -> list[int]:
    ids = scope.scan_ids
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA secure_delete=ON")  # overwrites with zeros instead of only freeing pages
    connection.execute(select(Scan.id).where(Scan.id.in_(ids)).order_by(Scan.id).with_for_update()).all()
    _require_unchanged(connection, scope)
    erased = transitions.erase_scans(connection, ids, by)
    if set(erased) != set(ids) and _count(
        connection, select(Scan.id).where(Scan.id.in_(ids), Scan.state == State.RUNNING)
    ):
        raise ErasureRefused("One of these scans is being processed; try again in a minute.")
    reviews = select(Review.id).where(Review.scan_id.in_(ids))
    for statement in (
        delete(Retraction).where(Retraction.review_id.in_(reviews)),
        delete(Review).where(Review.scan_id.in_(ids)),
        delete(Outbox).where(Outbox.scan_id.in_(ids)),
        delete(Prediction).where(Prediction.scan_id.in_(ids)),
        delete(Content).where(Content.scan_id.in_(ids)),  # otherwise the next copy of the file would be a duplicate
    ):
        connection.execute(statement)
    for scan_id in erased:
        audit.record_action(connection, by, AuditAction.ERASURE, scan_id)
    return erased


def _require_unchanged(connection: Connection, scope: ErasureScope) -> None:
    """Raise ErasureRefused if a scan was processed since the scope was found, or another one was added."""
    ids = _selected_ids(connection, scope.patient_key, scope.scan_ids)
    read = connection.scalars(select(Scan.sha256).where(Scan.id.in_(ids), Scan.sha256.is_not(None)))
    if ids - set(scope.scan_ids) or set(read) - set(scope.hashes):
        raise ErasureRefused(
            "These scans have changed since you looked: some were added or processed. Look again, and repeat it."
        )


def _selected_ids(connection: Connection, patient_key: str | None, scan_ids: Sequence[int]) -> set[int]:
    of_patient = Scan.patient_key == patient_key if patient_key is not None else false()
    chosen = or_(Scan.id.in_(scan_ids), of_patient)
    return _with_copies(connection, set(connection.scalars(select(Scan.id).where(chosen))))


def _with_copies(connection: Connection, ids: set[int]) -> set[int]:
    """Return the ids with their originals, duplicates and scans of the same bytes, until there are no more."""
    while True:
        rows = connection.execute(select(Scan.duplicate_of, Scan.sha256).where(Scan.id.in_(ids))).all()
        originals = ids | {row.duplicate_of for row in rows if row.duplicate_of is not None}
        hashes = {row.sha256 for row in rows if row.sha256 is not None}
        same = or_(Scan.id.in_(originals), Scan.duplicate_of.in_(originals), Scan.sha256.in_(hashes))
        found_ids = set(connection.scalars(select(Scan.id).where(same)))
        if found_ids <= ids:
            return ids
        ids = ids | found_ids


def _rows_of(table: Any, ids: Iterable[int]) -> Select[Any]:
    return select(table.id).where(table.scan_id.in_(ids))


def _count(connection: Connection, rows: Select[Any]) -> int:
    return connection.scalar(select(func.count()).select_from(rows.subquery())) or 0


def _existing(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if path.exists()]


def _truncate_wal(database: Database) -> None:
    """Truncate the write-ahead log, which still contains the erased data.

    While others read, this may happen a little later.
    """
    with closing(database.engine.raw_connection()) as connection:
        connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
