"""What metrics ask: the gate's distance and the film's brightness of each prediction, and indexes for counting."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0011"
down_revision: Final = "0010"
branch_labels: Final = None
depends_on: Final = None

COLUMNS: Final = ("strangeness", "brightness")
# name -> (table, columns, condition)
INDEXES: Final = {
    "ix_scans_ended": (
        "scans",
        ["inbox", "state", "finished_at"],
        "state IN ('classified', 'rejected', 'duplicate', 'failed')",
    ),
    "ix_outbox_given_up": ("outbox", ["kind"], "state = 'given_up'"),
}


def upgrade() -> None:
    for column in COLUMNS:
        op.add_column("predictions", sa.Column(column, sa.Double(), nullable=True))
    for name, (table, columns, condition) in INDEXES.items():
        where = sa.text(condition)
        op.create_index(name, table, columns, postgresql_where=where, sqlite_where=where)


def downgrade() -> None:
    for name, (table, _, _) in INDEXES.items():
        op.drop_index(name, table)
    for column in COLUMNS:
        op.drop_column("predictions", column)
