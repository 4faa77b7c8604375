"""Inboxes as each machine sees them: `inboxes`."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0005"
down_revision: Final = "0004"
branch_labels: Final = None
depends_on: Final = None


def upgrade() -> None:
    op.create_table(
        "inboxes",
        sa.Column("inbox", sa.String(length=63), nullable=False),
        sa.Column("machine", sa.String(length=255), nullable=False),
        sa.Column("root", sa.String(), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=True),
        sa.Column("mount_point", sa.String(), nullable=True),
        sa.Column("identity", sa.String(), nullable=True),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("detail", sa.String(), nullable=True),
        sa.Column("last_scan_id", sa.BigInteger(), nullable=True),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("watching", sa.String(length=8), nullable=True),
        sa.Column("rescanned_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("rescan_seconds", sa.Double(), nullable=True),
        sa.Column("files", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("inbox", "machine", name=op.f("pk_inboxes")),
    )


def downgrade() -> None:
    op.drop_table("inboxes")
