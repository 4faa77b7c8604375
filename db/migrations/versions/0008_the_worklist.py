"""The readers' worklist: a film's place in it, and the indexes of the desk."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0008"
down_revision: Final = "0007"
branch_labels: Final = None
depends_on: Final = None

ENTERED: Final = "worklist_rank IS NOT NULL AND (superseded_by IS NULL OR carried_by IS NOT NULL)"
TO_READ: Final = f"{ENTERED} AND verdict IS NULL"
INDEXES: Final[dict[str, tuple[list[str], str | None]]] = {
    "worklist": (["worklist_rank", "id", "received_at", "inbox"], TO_READ),
    "unread_since": (["received_at", "id", "worklist_rank", "inbox"], TO_READ),
    "entered": (["worklist_rank", "id", "flagged"], ENTERED),
    "arrived": (["received_at", "id"], None),
    "arrived_from": (["inbox", "received_at", "id"], None),
    "judged": (["verdict", "received_at", "id"], "verdict IS NOT NULL"),
    "cautioned": (["caution", "received_at", "id"], "caution IS NOT NULL"),
    "probable": (["probability", "received_at", "id"], "probability IS NOT NULL"),
    "without_result": (["state", "received_at", "id"], "state IN ('rejected', 'failed', 'duplicate')"),
    "sampled": (["received_at"], "sampled_share IS NOT NULL"),
    "study": (["study_uid", "id"], "study_uid IS NOT NULL"),
    "accession": (["accession_number", "id"], "accession_number IS NOT NULL"),
}


def upgrade() -> None:
    op.add_column("scans", sa.Column("worklist_rank", sa.Double(), nullable=True))
    op.add_column("scans", sa.Column("blind", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("scans", sa.Column("sampled_share", sa.Double(), nullable=True))
    # what is flagged already waits for its reader; of what is not, nothing was drawn
    op.execute(sa.text("UPDATE scans SET worklist_rank = probability WHERE flagged AND state = 'classified'"))
    for name, (columns, where) in INDEXES.items():
        condition = None if where is None else sa.text(where)
        op.create_index(f"ix_scans_{name}", "scans", columns, postgresql_where=condition, sqlite_where=condition)


def downgrade() -> None:
    for name in INDEXES:
        op.drop_index(f"ix_scans_{name}", "scans")
    for name in ("worklist_rank", "blind", "sampled_share"):
        op.drop_column("scans", name)
