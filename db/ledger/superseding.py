"""Mark superseded scans and track their current duplicate.

A scan is superseded when newer content is at its path. Duplicates have no prediction of their own. So a superseded
original stays a case for readers as long as one of its duplicates is current; `current_duplicate` names that one.
"""

from collections.abc import Mapping

from sqlalchemy import Connection, case, func, select, update
from sqlalchemy.orm import aliased

from db.models import Scan


def set_superseded(connection: Connection, successors: Mapping[int, int | None]) -> None:
    """Set the successor of each scan: {scan: the scan with newer content at its path, or None if it is current}."""
    if not successors:
        return
    original = select(Scan.duplicate_of).where(Scan.id.in_(successors), Scan.duplicate_of.is_not(None))
    touched = {*successors, *connection.scalars(original)}
    lock_scans(connection, touched)
    for scan_id, successor in sorted(successors.items()):
        connection.execute(update(Scan).where(Scan.id == scan_id).values(superseded_by=successor))
    update_current_duplicates(connection, touched)


def lock_scans(connection: Connection, ids: set[int]) -> None:
    """Lock these rows in their order: a worker may find a duplicate of a scan while the watcher supersedes the scan."""
    rows = select(Scan.id).where(Scan.id.in_(ids)).order_by(Scan.id)
    connection.execute(rows.with_for_update(key_share=True)).all()


def update_current_duplicates(connection: Connection, ids: set[int]) -> None:
    """Set `current_duplicate` of these scans: the oldest current duplicate if superseded, otherwise none."""
    duplicate = aliased(Scan)
    oldest = select(func.min(duplicate.id)).where(duplicate.duplicate_of == Scan.id, duplicate.superseded_by.is_(None))
    current = case((Scan.superseded_by.is_not(None), oldest.scalar_subquery()))
    stale = Scan.current_duplicate.is_distinct_from(current)
    connection.execute(update(Scan).where(Scan.id.in_(ids), stale).values(current_duplicate=current))
