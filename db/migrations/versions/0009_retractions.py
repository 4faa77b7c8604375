"""Verdicts that were taken back: `retractions`; and finding the other films of a patient."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0009"
down_revision: Final = "0008"
branch_labels: Final = None
depends_on: Final = None


def upgrade() -> None:
    op.create_table(
        "retractions",
        sa.Column("review_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("retracted_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["review_id"], ["reviews.id"], name=op.f("fk_retractions_review_id")),
        sa.PrimaryKeyConstraint("review_id", name=op.f("pk_retractions")),
    )
    known = sa.text("patient_key IS NOT NULL")
    op.create_index("ix_scans_patient_key", "scans", ["patient_key"], postgresql_where=known, sqlite_where=known)


def downgrade() -> None:
    op.drop_index("ix_scans_patient_key", "scans")
    op.drop_table("retractions")
