"""The audit of users' actions: one row per image opened, verdict, sign-in and change.

Rows are only ever added; `db.maintenance.retention` may remove old ones.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Connection, RowMapping, insert, select

from db.models import Audit

AUDIT: Final[Any] = Audit.__table__


class AuditAction(StrEnum):
    IMAGE_OPENED = "image_opened"
    VERDICT = "verdict"
    VERDICT_RETRACTED = "verdict_retracted"
    UPLOAD = "upload"
    EXPORT = "export"
    PROMOTION = "promotion"
    ROLLBACK = "rollback"
    SIGN_IN = "sign_in"
    SIGN_IN_FAILED = "sign_in_failed"
    SIGN_OUT = "sign_out"
    TOKEN_MADE = "token_made"
    TOKEN_REVOKED = "token_revoked"
    USER_ADDED = "user_added"
    USER_REMOVED = "user_removed"
    USER_CHANGED = "user_changed"  # password or role
    BACKUP = "backup"
    RESTORE = "restore"
    PURGE = "purge"
    ERASURE = "erasure"


def record_action(
    connection: Connection, who: str, what: AuditAction, scan_id: int | None = None, detail: str | None = None
) -> None:
    """Add a row, in the transaction of the action.

    Args:
        who: the user's name, or `command line`.
        detail: fixed words, versions, labels; never a patient's name, a path or an accession number.
    """
    row = {"at": datetime.now(UTC), "who": who, "what": what, "scan_id": scan_id, "detail": detail}
    connection.execute(insert(AUDIT), [row])


def list_actions(connection: Connection, limit: int, scan_id: int | None = None) -> Sequence[RowMapping]:
    """Return the newest rows, the newest first; only those of `scan_id`, if given."""
    rows = select(*AUDIT.c).order_by(AUDIT.c.id.desc()).limit(limit)
    if scan_id is not None:
        rows = rows.where(AUDIT.c.scan_id == scan_id)
    return connection.execute(rows).mappings().all()
