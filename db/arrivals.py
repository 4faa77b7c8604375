"""What the watcher saw, held against the table: new files, changed ones, those that are known."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import Connection, Row, select

from db import ledger
from db.models import Scan
from db.seen import SeenFile
from db.states import Reason, State

LOOKUP: Final = 400  # paths of one query; SQLite binds at most 32,766 values


@dataclass
class Arrivals:
    """What became of a burst: scans to be announced, and files whose scan is being read and must be looked at again."""

    to_ring: list[int] = field(default_factory=list)
    busy: list[SeenFile] = field(default_factory=list)


def unknown(connection: Connection, files: Sequence[SeenFile]) -> list[SeenFile]:
    """Those of `files` that `arrive` would do something about. Reads only: the rescan asks it of every file."""
    rows = _latest_rows(connection, files)
    return [file for file in files if _differs(rows.get((file.inbox, file.path_sha256), []), file)]


def arrive(connection: Connection, files: Iterable[SeenFile], by: str) -> Arrivals:
    """Bring complete files into the ledger: a row for each content at each path, however often it is seen.

    New paths are registered. Where the path's latest scan still waits, it follows the file; where it is being read, the
    file is handed back as busy; where it is finished, the new content gets a scan of its own that supersedes it. A
    file once called vanished that is here again is queued again.
    """
    latest = list({(file.inbox, file.path): file for file in files}.values())
    rows = _latest_rows(connection, latest)
    result, fresh, older = Arrivals(), [], {}
    for file in latest:
        known = rows.get((file.inbox, file.path_sha256), [])
        if not _differs(known, file):
            continue
        last = known[-1] if known else None
        if last is None:
            fresh.append(file)
        elif _vanished(known, file) is not None:
            result.to_ring += ledger.requeue(connection, Scan.id == _vanished(known, file), by)
        elif last.state == State.RUNNING:
            result.busy.append(file)
        elif last.state == State.QUEUED:
            if ledger.refresh(connection, last.id, file):
                result.to_ring.append(last.id)
        else:
            fresh.append(file)
            older[file.inbox, file.path_sha256] = [row.id for row in known if row.superseded_by is None]
    created = ledger.register(connection, fresh, by)
    result.to_ring += created
    successors = {old: new for new, file in created.items() for old in older.get((file.inbox, file.path_sha256), [])}
    ledger.supersede(connection, successors)
    return result


def _differs(known: Sequence[Row], file: SeenFile) -> bool:
    same = [row for row in known if (row.size, row.mtime_ns) == (file.size, file.mtime_ns)]
    return not same or _vanished(known, file) is not None


def _vanished(known: Sequence[Row], file: SeenFile) -> int | None:
    """The scan of exactly this content that was rejected because the file was gone."""
    for row in known:
        if (row.size, row.mtime_ns) == (file.size, file.mtime_ns) and row.state == State.REJECTED:
            return row.id if row.reason == Reason.VANISHED and row.superseded_by is None else None
    return None


def _latest_rows(connection: Connection, files: Sequence[SeenFile]) -> dict[tuple[str, bytes], list[Row]]:
    """{(inbox, hash of path): its rows, oldest first}."""
    rows: dict[tuple[str, bytes], list[Row]] = {}
    for start in range(0, len(files), LOOKUP):
        chunk = files[start : start + LOOKUP]
        found = connection.execute(
            select(
                Scan.id,
                Scan.inbox,
                Scan.path_sha256,
                Scan.size,
                Scan.mtime_ns,
                Scan.state,
                Scan.reason,
                Scan.superseded_by,
            )
            .where(Scan.inbox.in_({file.inbox for file in chunk}), Scan.path_sha256.in_([f.path_sha256 for f in chunk]))
            .order_by(Scan.id)
        )
        for row in found:
            rows.setdefault((row.inbox, row.path_sha256), []).append(row)
    return rows
