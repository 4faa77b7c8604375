"""Which scan of a path is current, and where the content of one that is not may stand still.

A scan is superseded when newer content stands at its path. Where it is the original of duplicates, which have no
prediction of their own, it stays a case for readers as long as one of them is current: that one carries it.
"""

from collections.abc import Mapping

from sqlalchemy import Connection, case, func, select, update
from sqlalchemy.orm import aliased

from db.models import Scan


def set_superseded(connection: Connection, successors: Mapping[int, int | None]) -> None:
    """{scan: the one with newer content at its path; None: it is current itself}."""
    if not successors:
        return
    original = select(Scan.duplicate_of).where(Scan.id.in_(successors), Scan.duplicate_of.is_not(None))
    touched = {*successors, *connection.scalars(original)}
    lock_scans(connection, touched)
    for scan_id, successor in sorted(successors.items()):
        connection.execute(update(Scan).where(Scan.id == scan_id).values(superseded_by=successor))
    update_current_duplicates(connection, touched)


def lock_scans(connection: Connection, ids: set[int]) -> None:
    """Hold these rows, in their order: a worker may find a twin of a film while the watcher finds its file replaced."""
    rows = select(Scan.id).where(Scan.id.in_(ids)).order_by(Scan.id)
    connection.execute(rows.with_for_update(key_share=True)).all()


def update_current_duplicates(connection: Connection, ids: set[int]) -> None:
    """Let each of these scans be carried by its oldest current duplicate where it is superseded, else by none."""
    duplicate = aliased(Scan)
    oldest = select(func.min(duplicate.id)).where(duplicate.duplicate_of == Scan.id, duplicate.superseded_by.is_(None))
    current = case((Scan.superseded_by.is_not(None), oldest.scalar_subquery()))
    stale = Scan.current_duplicate.is_distinct_from(current)
    connection.execute(update(Scan).where(Scan.id.in_(ids), stale).values(current_duplicate=current))
