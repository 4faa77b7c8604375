"""Headers of DICOM files: sex and keyed patient; duplicates that stand in for a superseded original; the deployment."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0002"
down_revision: Final = "0001"
branch_labels: Final = None
depends_on: Final = None

CURRENT: Final = "superseded_by IS NULL"
CASE: Final = "(superseded_by IS NULL OR carried_by IS NOT NULL)"


def upgrade() -> None:
    op.create_table(
        "deployment",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_deployment")),
    )
    op.add_column("scans", sa.Column("sex", sa.String(length=1), nullable=True))
    op.add_column("scans", sa.Column("patient_key", sa.String(length=64), nullable=True))
    # by hand: for SQLite, Alembic adds no column with a foreign key short of copying the table
    op.execute("ALTER TABLE scans ADD COLUMN carried_by BIGINT CONSTRAINT fk_scans_carried_by REFERENCES scans (id)")
    _index_duplicates(["duplicate_of", "id"])
    op.execute(
        """
        UPDATE scans SET carried_by = (
            SELECT min(twin.id) FROM scans twin WHERE twin.duplicate_of = scans.id AND twin.superseded_by IS NULL
        )
        WHERE superseded_by IS NOT NULL AND id IN (SELECT duplicate_of FROM scans WHERE duplicate_of IS NOT NULL)
        """
    )
    _index_cases(CASE)


def downgrade() -> None:
    _index_cases(CURRENT)
    _index_duplicates(["duplicate_of"])
    for column in ("carried_by", "patient_key", "sex"):
        op.drop_column("scans", column)
    op.drop_table("deployment")


def _index_duplicates(columns: list[str]) -> None:
    op.drop_index("ix_scans_duplicate_of", "scans")
    condition = sa.text("duplicate_of IS NOT NULL")
    op.create_index("ix_scans_duplicate_of", "scans", columns, postgresql_where=condition, sqlite_where=condition)


def _index_cases(standing: str) -> None:
    """The partial indexes behind `flagged_cases`."""
    for name, unread in (("ix_scans_flagged", ""), ("ix_scans_unread", " AND verdict IS NULL")):
        op.drop_index(name, "scans")
        condition = sa.text(f"flagged AND state = 'classified' AND {standing}{unread}")
        op.create_index(name, "scans", ["probability", "id"], postgresql_where=condition, sqlite_where=condition)
