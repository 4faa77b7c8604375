"""The SQL views: what `psql`, `sqlite3`, BI tools and scripts read. Their names and columns are a contract.

They are no tables of Alembic's: each migration drops and recreates them.
"""

from typing import Final

from sqlalchemy import Connection, text

WAITING_CAP_MINUTES: Final = 60  # a film that waits longer than this counts as read by nobody

NAMES: Final = ("unscored_cases", "flagged_cases", "scan_ledger")

_IDENTITY: Final = (
    "s.id AS scan_id, s.inbox AS source, s.path, s.state, s.reason, s.detail, s.priority, "
    "s.received_at, s.finished_at, s.sha256"
)
_REVIEW: Final = "s.verdict, s.reviewer, s.reviewed_at, s.duplicate_of, s.superseded_by"
_HEADER: Final = "s.study_uid, s.series_uid, s.sop_uid, s.accession_number, s.modality, s.view_position, s.age_years"
_OWN_RESULT: Final = "s.probability, s.flagged, s.caution, s.model_version, s.threshold"
# a duplicate shows the result of the scan whose bytes it shares
_SHOWN_RESULT: Final = ", ".join(
    f"COALESCE(s.{name}, o.{name}) AS {name}"
    for name in ("probability", "flagged", "caution", "model_version", "threshold")
)

_LEDGER: Final = f"""
CREATE VIEW scan_ledger AS
SELECT {_IDENTITY}, {_SHOWN_RESULT}, {_REVIEW}, {_HEADER}
FROM scans s LEFT JOIN scans o ON o.id = s.duplicate_of
"""

_FLAGGED: Final = f"""
CREATE VIEW flagged_cases AS
SELECT {_IDENTITY}, {_OWN_RESULT}, {_REVIEW}, {_HEADER}
FROM scans s
WHERE s.flagged AND s.state = 'classified' AND s.superseded_by IS NULL
ORDER BY s.probability DESC, s.id DESC
"""

_UNSCORED: Final = """
CREATE VIEW unscored_cases AS
SELECT {columns}
FROM scans s
WHERE s.superseded_by IS NULL AND s.state IN ('rejected', 'failed')
UNION ALL
SELECT {columns}
FROM scans s
WHERE s.superseded_by IS NULL AND s.state IN ('queued', 'running') AND s.received_at < {cap}
"""

_CAP: Final = {
    "sqlite": f"datetime('now', '-{WAITING_CAP_MINUTES} minutes')",
    "postgresql": f"now() - interval '{WAITING_CAP_MINUTES} minutes'",
}


def create(connection: Connection) -> None:
    columns = f"{_IDENTITY}, {_OWN_RESULT}, {_REVIEW}, {_HEADER}"
    unscored = _UNSCORED.format(columns=columns, cap=_CAP[connection.dialect.name])
    for statement in (_LEDGER, _FLAGGED, unscored):
        connection.execute(text(statement))


def drop(connection: Connection) -> None:
    for name in NAMES:
        connection.execute(text(f"DROP VIEW IF EXISTS {name}"))
