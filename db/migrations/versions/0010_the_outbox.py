"""What is to be told of newly flagged scans, and to whom: `outbox`."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0010"
down_revision: Final = "0006"
branch_labels: Final = None
depends_on: Final = None

BigKey: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INDEXES: Final = {
    "ix_outbox_waiting": (["kind", "not_before"], "state = 'waiting'"),
    "ix_outbox_token": (["token"], "token IS NOT NULL"),
    "ix_outbox_sent": (["kind", "ended_at"], "state = 'sent'"),
}


def upgrade() -> None:
    op.create_table(
        "outbox",
        sa.Column("id", BigKey, nullable=False),
        sa.Column("scan_id", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("model_version", sa.String(length=128), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=False),
        sa.Column("token", sa.String(length=32), nullable=True),
        sa.Column("last_error", sa.String(length=64), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["scan_id"], ["scans.id"], name=op.f("fk_outbox_scan_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
        sa.UniqueConstraint("scan_id", "kind", name=op.f("uq_outbox_scan_id_kind")),
    )
    for name, (columns, condition) in INDEXES.items():
        where = sa.text(condition)
        op.create_index(name, "outbox", columns, postgresql_where=where, sqlite_where=where)


def downgrade() -> None:
    op.drop_table("outbox")
