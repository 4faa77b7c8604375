"""Purge old events, audit rows and kept images, in small transactions while all components run."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Delete, delete, func, select

from db.ledger.statements import in_state
from db.models import Audit, Content, Scan, ScanEvent
from db.session import Database
from db.states import State
from pneumowatch.imaging import image_store

ROWS_PER_TRANSACTION: Final = 5000  # rows deleted in one transaction
HASHES_PER_QUERY: Final = 500  # hashes looked up in one query
ORPHAN_GRACE: Final = timedelta(days=1)  # a younger file without a scan may belong to one in progress


@dataclass(frozen=True)
class PurgedImages:
    """Kept images older than the given time: `removed` ones, and `reviewed` ones, which stay as training data.

    `bytes`: size of the removed ones. With a dry run, all tell what would be removed.
    """

    removed: int = 0
    reviewed: int = 0
    bytes: int = 0


def purge_events(database: Database, before: datetime, dry_run: bool) -> int:
    """Delete events older than `before`; their scans stay. Returns how many."""
    return _purge_rows(database, ScanEvent, before, dry_run)


def purge_audit(database: Database, before: datetime, dry_run: bool) -> int:
    return _purge_rows(database, Audit, before, dry_run)


def purge_images(
    database: Database, data_dir: Path, before: datetime, include_reviewed: bool, dry_run: bool
) -> PurgedImages:
    """Remove kept images, with their maps, of scans received before `before`; the results stay.

    Images that have had no scan for a day are removed as well: the scan was erased while another machine kept the
    image.

    `include_reviewed`: also those with a verdict, which are training data no longer.
    """
    removed = reviewed = size = 0
    reviewed_rejections = database.read(_reviewed_rejections)
    for chunk in _chunks(sorted(_stored_hashes(data_dir)), HASHES_PER_QUERY):
        # a reviewed scan comes before another one of the same hash
        scans = database.read(partial(_scans_of, hashes=chunk)) | reviewed_rejections
        for sha256 in chunk:
            file = image_store.image_path(data_dir, sha256)
            received_at, verdict = scans.get(sha256, (None, None))
            if not (_is_orphan(file) if received_at is None else received_at < before):
                continue
            if verdict is not None and not include_reviewed:
                reviewed += 1
                continue
            removed += 1
            with suppress(FileNotFoundError):  # another purge was faster
                size += file.stat().st_size
            if not dry_run:
                file.unlink(missing_ok=True)
    return PurgedImages(removed, reviewed, size)


def _purge_rows(database: Database, table: Any, before: datetime, dry_run: bool) -> int:
    """Delete old rows in batches, but not the newest row.

    Pages that wait for newer rows refer to it, and SQLite would assign its id again.
    """
    newest = database.read(lambda c: c.scalar(select(func.max(table.id)))) or 0
    old = (table.at < before, table.id < newest)
    if dry_run:
        return database.read(lambda c: c.scalar(select(func.count()).select_from(table).where(*old))) or 0
    after = count = 0
    while True:
        rows = database.read(partial(_next_rows, table=table, after=after))
        if not any(at < before for _, at in rows):  # ids are in the order of time
            return count
        first, last = rows[0][0], rows[-1][0]
        count += database.write(
            partial(_execute_delete, statement=delete(table).where(table.id.between(first, last), *old))
        )
        after = last


def _next_rows(connection: Connection, table: Any, after: int) -> list[tuple[int, datetime]]:
    rows = select(table.id, table.at).where(table.id > after).order_by(table.id).limit(ROWS_PER_TRANSACTION)
    return [(row.id, row.at) for row in connection.execute(rows)]


def _execute_delete(connection: Connection, statement: Delete) -> int:
    return connection.execute(statement).rowcount


def _stored_hashes(data_dir: Path) -> set[str]:
    """Return the hashes of all kept images."""
    folder = data_dir / image_store.IMAGES_FOLDER
    names = os.listdir(folder) if folder.is_dir() else []  # noqa: PTH208 - names are enough
    return {
        name.partition(".")[0] for name in names if name.endswith(image_store.IMAGE_SUFFIX) and not name.startswith(".")
    }


def _scans_of(connection: Connection, hashes: Sequence[str]) -> dict[str, tuple[datetime, str | None]]:
    """Return {hash: when its scan was received, and its verdict}."""
    rows = select(Content.sha256, Scan.received_at, Scan.verdict).join(Scan, Scan.id == Content.scan_id)
    return {
        row.sha256: (row.received_at, row.verdict) for row in connection.execute(rows.where(Content.sha256.in_(hashes)))
    }


def _reviewed_rejections(connection: Connection) -> dict[str, tuple[datetime, str | None]]:
    """Return the same as `_scans_of` for rejected scans with a verdict.

    They are training data, but own no content.
    """
    reviewed = (Scan.verdict.is_not(None), in_state(State.REJECTED), Scan.sha256.is_not(None))
    rows = connection.execute(select(Scan.sha256, Scan.received_at, Scan.verdict).where(*reviewed))
    return {row.sha256: (row.received_at, row.verdict) for row in rows}


def _is_orphan(file: Path) -> bool:
    with suppress(FileNotFoundError):
        return file.stat().st_mtime < (datetime.now(UTC) - ORPHAN_GRACE).timestamp()
    return False


def _chunks(values: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
