"""The SQL views that `psql`, `sqlite3`, BI tools and scripts read. Their names and columns are a contract.

Alembic does not manage them: each migration drops and recreates them.
"""

from typing import Final

from sqlalchemy import Connection, text

WAITING_CAP_MINUTES: Final = 60  # a scan that has waited longer counts as unscored

VIEW_NAMES: Final = ("unscored_cases", "flagged_cases", "scan_ledger")

_LOCATION: Final = "s.inbox AS source, s.path"
# a superseded original is shown at the place of its oldest duplicate that is not superseded
_CURRENT_LOCATION: Final = "COALESCE(c.inbox, s.inbox) AS source, COALESCE(c.path, s.path) AS path"
_LIFECYCLE: Final = "s.state, s.reason, s.detail, s.priority, s.received_at, s.finished_at, s.sha256"
_REVIEW: Final = "s.verdict, s.reviewer, s.reviewed_at, s.duplicate_of"
_HEADER: Final = (
    "s.study_uid, s.series_uid, s.sop_uid, s.accession_number, s.modality, s.view_position, s.age_years, "
    "s.sex, s.patient_key"
)
_OWN_RESULT: Final = "s.probability, s.flagged, s.caution, s.model_version, s.threshold"
# a duplicate shows the result of the scan whose content it shares
_SHOWN_RESULT: Final = ", ".join(
    f"COALESCE(s.{name}, o.{name}) AS {name}"
    for name in ("probability", "flagged", "caution", "model_version", "threshold")
)

_LEDGER: Final = f"""
CREATE VIEW scan_ledger AS
SELECT s.id AS scan_id, {_LOCATION}, {_LIFECYCLE}, {_SHOWN_RESULT}, {_REVIEW}, s.superseded_by, {_HEADER}
FROM scans s LEFT JOIN scans o ON o.id = s.duplicate_of
"""

_FLAGGED: Final = f"""
CREATE VIEW flagged_cases AS
SELECT s.id AS scan_id, {_CURRENT_LOCATION}, {_LIFECYCLE}, {_OWN_RESULT}, {_REVIEW}, c.superseded_by, {_HEADER}
FROM scans s LEFT JOIN scans c ON c.id = s.current_duplicate
WHERE s.flagged AND s.state = 'classified' AND (s.superseded_by IS NULL OR s.current_duplicate IS NOT NULL)
ORDER BY s.probability DESC, s.id DESC
"""

_UNSCORED: Final = """
CREATE VIEW unscored_cases AS
SELECT {columns}
FROM scans s
WHERE s.superseded_by IS NULL AND s.state IN ('rejected', 'failed') AND COALESCE(s.reason, '') <> 'erased'
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
    columns = f"s.id AS scan_id, {_LOCATION}, {_LIFECYCLE}, {_OWN_RESULT}, {_REVIEW}, s.superseded_by, {_HEADER}"
    unscored = _UNSCORED.format(columns=columns, cap=_CAP[connection.dialect.name])
    for statement in (_LEDGER, _FLAGGED, unscored):
        connection.execute(text(statement))


def drop(connection: Connection) -> None:
    for name in VIEW_NAMES:
        connection.execute(text(f"DROP VIEW IF EXISTS {name}"))
