"""What is kept no longer: old events, audit rows and kept films. In small transactions, beside everything that runs."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Delete, delete, func, select

from db.models import Audit, Content, Scan, ScanEvent
from db.session import Database
from db.statements import in_state
from db.states import State
from pneumowatch import kept

ROWS: Final = 5000  # of one transaction
FILMS: Final = 500  # looked up at once
UNKNOWN: Final = timedelta(days=1)  # after which a film that no scan knows is not one that is just being written


@dataclass(frozen=True)
class Films:
    """Kept films older than the moment: `removed` ones, and `judged` ones, which teach and stay. `bytes` of the former.
    With a dry run, what would be."""

    removed: int = 0
    judged: int = 0
    bytes: int = 0


def events(database: Database, before: datetime, dry: bool) -> int:
    """Remove events of scans that are older; the scans stay. Returns how many."""
    return _purge(database, ScanEvent, before, dry)


def audit_rows(database: Database, before: datetime, dry: bool) -> int:
    return _purge(database, Audit, before, dry)


def films(database: Database, data_dir: Path, before: datetime, judged_too: bool, dry: bool) -> Films:
    """Remove kept films, with their maps, of scans that came before, and those that no scan has known for a day: theirs
    was erased, while the film was kept on another machine.

    Their results stay. `judged_too`: those with a verdict as well, which then teach no longer.
    """
    removed = judged = size = 0
    turned_away = database.read(_turned_away)
    for portion in _portions(sorted(_kept(data_dir)), FILMS):
        known = database.read(partial(_known, hashes=portion)) | turned_away  # of one hash, what was judged stays
        for sha256 in portion:
            file = kept.path(data_dir, sha256)
            received_at, verdict = known.get(sha256, (None, None))
            if not (_is_forgotten(file) if received_at is None else received_at < before):
                continue
            if verdict is not None and not judged_too:
                judged += 1
                continue
            removed += 1
            with suppress(FileNotFoundError):  # another purge is quicker
                size += file.stat().st_size
            if not dry:
                file.unlink(missing_ok=True)
    return Films(removed, judged, size)


def _purge(database: Database, table: Any, before: datetime, dry: bool) -> int:
    """The newest row stays: pages that wait for newer ones know it, and SQLite would give its id again."""
    newest = database.read(lambda c: c.scalar(select(func.max(table.id)))) or 0
    old = (table.at < before, table.id < newest)
    if dry:
        return database.read(lambda c: c.scalar(select(func.count()).select_from(table).where(*old))) or 0
    after = count = 0
    while True:
        rows = database.read(partial(_next, table=table, after=after))
        if not any(at < before for _, at in rows):  # their ids go with the time
            return count
        first, last = rows[0][0], rows[-1][0]
        count += database.write(partial(_delete, statement=delete(table).where(table.id.between(first, last), *old)))
        after = last


def _next(connection: Connection, table: Any, after: int) -> list[tuple[int, datetime]]:
    rows = select(table.id, table.at).where(table.id > after).order_by(table.id).limit(ROWS)
    return [(row.id, row.at) for row in connection.execute(rows)]


def _delete(connection: Connection, statement: Delete) -> int:
    return connection.execute(statement).rowcount


def _kept(data_dir: Path) -> set[str]:
    """Hashes of all films that are kept."""
    folder = data_dir / kept.FOLDER
    names = os.listdir(folder) if folder.is_dir() else []  # noqa: PTH208 - of names alone
    return {name.partition(".")[0] for name in names if name.endswith(kept.FILM) and not name.startswith(".")}


def _known(connection: Connection, hashes: Sequence[str]) -> dict[str, tuple[datetime, str | None]]:
    """{hash: when its scan came, and its verdict}."""
    rows = select(Content.sha256, Scan.received_at, Scan.verdict).join(Scan, Scan.id == Content.scan_id)
    return {
        row.sha256: (row.received_at, row.verdict) for row in connection.execute(rows.where(Content.sha256.in_(hashes)))
    }


def _turned_away(connection: Connection) -> dict[str, tuple[datetime, str | None]]:
    """As `_known`, of films that were judged although they were rejected: they are no content, and teach."""
    judged = (Scan.verdict.is_not(None), in_state(State.REJECTED), Scan.sha256.is_not(None))
    rows = connection.execute(select(Scan.sha256, Scan.received_at, Scan.verdict).where(*judged))
    return {row.sha256: (row.received_at, row.verdict) for row in rows}


def _is_forgotten(file: Path) -> bool:
    with suppress(FileNotFoundError):
        return file.stat().st_mtime < (datetime.now(UTC) - UNKNOWN).timestamp()
    return False


def _portions(values: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
