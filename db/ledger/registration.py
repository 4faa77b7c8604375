"""Compare the files that the watcher saw with the table: new, changed and known ones."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import Connection, Row, and_, func, select

from db.dialect import dialect_name, force_custom_plans, rows_parameter
from db.ledger import source_hours, statements, transitions
from db.ledger.file_version import FileVersion
from db.ledger.priority import with_priority
from db.models import Scan
from db.states import FINAL, REJECTED_UNREAD, WAITING, Reason, State

PATHS_PER_QUERY: Final = 400  # paths of one query; SQLite binds at most 32,766 values


@dataclass
class RegistrationResult:
    """The result of a burst.

    `to_announce`: scans to be announced. `busy`: files whose scan is being processed, to be checked again.
    """

    to_announce: list[int] = field(default_factory=list)
    busy: list[FileVersion] = field(default_factory=list)


def unregistered_files(connection: Connection, files: Sequence[FileVersion]) -> list[FileVersion]:
    """Return those of `files` that `register_files` would change something for. Reads only.

    A rescan calls it for every file, and nearly all are known. So the database returns those without a row instead of
    all rows, which takes a third of the time.
    """
    force_custom_plans(connection)
    files = [file for inbox in {file.inbox: None for file in files} for file in _unmatched(connection, inbox, files)]
    rows = _latest_rows(connection, files)
    return [file for file in files if _needs_registration(rows.get((file.inbox, file.path_sha256), []), file)]


def _unmatched(connection: Connection, inbox: str, files: Sequence[FileVersion]) -> list[FileVersion]:
    """Return those files of an inbox that no row matches."""
    mine = [file for file in files if file.inbox == inbox]
    numbered = [
        {"n": n, "path_sha256": file.path_sha256.hex(), "size": file.size, "mtime_ns": file.mtime_ns}
        for n, file in enumerate(mine)
    ]
    found = connection.scalars(
        statements.unmatched(dialect_name(connection)), rows_parameter(numbered) | {"inbox": inbox}
    )
    return [mine[n] for n in sorted(found)]


def register_files(
    connection: Connection, files: Iterable[FileVersion], by: str, urgent_folders: Collection[str] = ()
) -> RegistrationResult:
    """Bring complete files into the ledger: one row for each content at each path, however often it is seen.

    A new path is registered. If the path's current scan is queued, it is updated to the file. If it is being processed,
    the file is returned as busy. If it is finished, the new content gets its own scan, which supersedes it. Content
    that was superseded or had vanished and is back becomes current again; it is queued if it was never read.

    `urgent_folders`: the folders whose scans go first, see `db.ledger.priority`.
    """
    latest = list({(file.inbox, file.path): file for file in files}.values())
    rows = _latest_rows(connection, latest)
    result, fresh, superseded = RegistrationResult(), [], {}
    for file in latest:
        known = rows.get((file.inbox, file.path_sha256), [])
        if not _needs_registration(known, file):
            continue
        current, same = _current(known), _same_content(known, file)
        if current is None:
            fresh.append(file)
        elif same is not None:
            result.to_announce += _reinstate(connection, same.id, known, by)
        elif current.state == State.QUEUED and transitions.update_queued(connection, current.id, file):
            result.to_announce.append(current.id)
        elif current.state in WAITING:
            result.busy.append(file)  # it is being processed, perhaps since the rows were read
        else:
            fresh.append(file)
            superseded[file.inbox, file.path_sha256] = [row.id for row in known if row.superseded_by is None]
    created = transitions.insert_scans(connection, [with_priority(file, urgent_folders) for file in fresh], by)
    result.to_announce += created
    source_hours.record_arrivals(connection, (file.inbox for file in created.values()), transitions.utc_now())
    successors = {
        old: new for new, file in created.items() for old in superseded.get((file.inbox, file.path_sha256), [])
    }
    transitions.supersede(connection, successors)
    return result


def register_complete_file(
    connection: Connection, file: FileVersion, by: str, announced: bool
) -> tuple[int, list[int]]:
    """Register a file that is no longer written to. Returns its scan and the scans to be announced.

    Args:
        announced: the caller announces them after the commit; otherwise the sweep does.
    """
    to_announce = register_files(connection, [file], by).to_announce
    scan_id = _scan_of(connection, file)
    transitions.mark_file_complete(connection, scan_id)
    if not announced:
        transitions.mark_unannounced(connection, to_announce)
    return scan_id, to_announce


def _scan_of(connection: Connection, file: FileVersion) -> int:
    same = (Scan.path_sha256 == file.path_sha256, Scan.inbox == file.inbox)
    return connection.scalars(
        select(Scan.id).where(*same, Scan.size == file.size, Scan.mtime_ns == file.mtime_ns)
    ).one()


def _needs_registration(known: Sequence[Row], file: FileVersion) -> bool:
    current, same = _current(known), _same_content(known, file)
    if current is None or same is None:
        return True
    if same.superseded_by is not None:
        return current.state in FINAL  # a waiting scan of other content is superseded once a worker reads it
    return same.state == State.REJECTED and same.reason == Reason.VANISHED


def _same_content(known: Sequence[Row], file: FileVersion) -> Row | None:
    """Return the row of exactly this content."""
    return next((row for row in known if (row.size, row.mtime_ns) == (file.size, file.mtime_ns)), None)


def _current(known: Sequence[Row]) -> Row | None:
    """Return the current row of the path: the latest that is not superseded."""
    return max(known, key=lambda row: (row.superseded_by is None, row.id), default=None)


def _reinstate(connection: Connection, scan_id: int, known: Sequence[Row], by: str) -> list[int]:
    """Make this scan current again, since its content is back at its path.

    Returns the scan if it is to be announced.
    """
    transitions.reinstate(
        connection, scan_id, [row.id for row in known if row.superseded_by is None and row.id != scan_id]
    )
    unread = transitions.requeue(connection, and_(Scan.id == scan_id, Scan.reason.in_(REJECTED_UNREAD)), by)
    return transitions.mark_announced(connection, Scan.id.in_(unread), len(unread))


def _latest_rows(connection: Connection, files: Sequence[FileVersion]) -> dict[tuple[str, bytes], list[Row]]:
    """Return {(inbox, hash of the path): its rows, the oldest first}."""
    force_custom_plans(connection)
    rows: dict[tuple[str, bytes], list[Row]] = {}
    for start in range(0, len(files), PATHS_PER_QUERY):
        chunk = files[start : start + PATHS_PER_QUERY]
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
                func.coalesce(Scan.inbox, "").in_(
                    {file.inbox for file in chunk}
                ),  # as in `db.ledger.statements.unmatched`
            )
        )
        # sorted here: the database would read the table in that order to find a few hundred rows
        for row in sorted(found, key=lambda row: row.id):
            rows.setdefault((row.inbox, row.path_sha256), []).append(row)
    return rows
