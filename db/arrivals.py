"""What the watcher saw, held against the table: new files, changed ones, those that are known."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import Connection, Row, and_, func, select

from db import ledger, silence, statements
from db.dialect import name, plan_anew, rows
from db.models import Scan
from db.seen import SeenFile
from db.states import FINAL, UNREAD, WAITING, Reason, State
from db.urgency import ranked

LOOKUP: Final = 400  # paths of one query; SQLite binds at most 32,766 values


@dataclass
class Arrivals:
    """What became of a burst: scans to be announced, and files whose scan is being read and must be looked at again."""

    to_ring: list[int] = field(default_factory=list)
    busy: list[SeenFile] = field(default_factory=list)


def unknown(connection: Connection, files: Sequence[SeenFile]) -> list[SeenFile]:
    """Those of `files` that `arrive` would do something about. Reads only: the rescan asks it of every file.

    Nearly all of them are known; that the database tells which are not, instead of all rows, takes a third of the time.
    """
    plan_anew(connection)
    files = [file for inbox in {file.inbox: None for file in files} for file in _unmatched(connection, inbox, files)]
    rows = _latest_rows(connection, files)
    return [file for file in files if _differs(rows.get((file.inbox, file.path_sha256), []), file)]


def _unmatched(connection: Connection, inbox: str, files: Sequence[SeenFile]) -> list[SeenFile]:
    """Of an inbox' files, those that no row stands for at first sight."""
    mine = [file for file in files if file.inbox == inbox]
    numbered = [
        {"n": n, "path_sha256": file.path_sha256.hex(), "size": file.size, "mtime_ns": file.mtime_ns}
        for n, file in enumerate(mine)
    ]
    found = connection.scalars(statements.unmatched(name(connection)), rows(numbered) | {"inbox": inbox})
    return [mine[n] for n in sorted(found)]


def arrive(connection: Connection, files: Iterable[SeenFile], by: str, urgent: Collection[str] = ()) -> Arrivals:
    """Bring complete files into the ledger: a row for each content at each path, however often it is seen.

    New paths are registered. Where the path's current scan still waits, it follows the file; where it is being read,
    the file is handed back as busy; where it is finished, the new content gets a scan of its own that supersedes it.
    Content that was superseded or had vanished and is here again is current again, and is queued where nobody read it.

    `urgent`: the folders whose films go first, as `db.urgency` wants them.
    """
    latest = list({(file.inbox, file.path): file for file in files}.values())
    rows = _latest_rows(connection, latest)
    result, fresh, older = Arrivals(), [], {}
    for file in latest:
        known = rows.get((file.inbox, file.path_sha256), [])
        if not _differs(known, file):
            continue
        current, same = _current(known), _same(known, file)
        if current is None:
            fresh.append(file)
        elif same is not None:
            result.to_ring += _bring_back(connection, same.id, known, by)
        elif current.state == State.QUEUED and ledger.refresh(connection, current.id, file):
            result.to_ring.append(current.id)
        elif current.state in WAITING:
            result.busy.append(file)  # it is being read, perhaps only since the rows were looked up
        else:
            fresh.append(file)
            older[file.inbox, file.path_sha256] = [row.id for row in known if row.superseded_by is None]
    created = ledger.register(connection, [ranked(file, urgent) for file in fresh], by)
    result.to_ring += created
    silence.note(connection, (file.inbox for file in created.values()), ledger.now())
    successors = {old: new for new, file in created.items() for old in older.get((file.inbox, file.path_sha256), [])}
    ledger.supersede(connection, successors)
    return result


def _differs(known: Sequence[Row], file: SeenFile) -> bool:
    current, same = _current(known), _same(known, file)
    if current is None or same is None:
        return True
    if same.superseded_by is not None:
        return current.state in FINAL  # one that waits for other content will be read, and make way
    return same.state == State.REJECTED and same.reason == Reason.VANISHED


def _same(known: Sequence[Row], file: SeenFile) -> Row | None:
    """The scan of exactly this content."""
    return next((row for row in known if (row.size, row.mtime_ns) == (file.size, file.mtime_ns)), None)


def _current(known: Sequence[Row]) -> Row | None:
    """The scan that stands for what is at the path now, as far as is known: the latest that is not superseded."""
    return max(known, key=lambda row: (row.superseded_by is None, row.id), default=None)


def _bring_back(connection: Connection, scan_id: int, known: Sequence[Row], by: str) -> list[int]:
    """The content of this scan stands at its path again. Returns the scan if it is to be announced."""
    ledger.restore(connection, scan_id, [row.id for row in known if row.superseded_by is None and row.id != scan_id])
    unread = ledger.requeue(connection, and_(Scan.id == scan_id, Scan.reason.in_(UNREAD)), by)
    return ledger.ring(connection, Scan.id.in_(unread), len(unread))


def _latest_rows(connection: Connection, files: Sequence[SeenFile]) -> dict[tuple[str, bytes], list[Row]]:
    """{(inbox, hash of path): its rows, oldest first}."""
    plan_anew(connection)
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
            ).where(
                Scan.path_sha256.in_([file.path_sha256 for file in chunk]),
                func.coalesce(Scan.inbox, "").in_({file.inbox for file in chunk}),  # as in `db.statements.unmatched`
            )
        )
        # not sorted by the database, which would then walk the table in that order to find a few hundred
        for row in sorted(found, key=lambda row: row.id):
            rows.setdefault((row.inbox, row.path_sha256), []).append(row)
    return rows
