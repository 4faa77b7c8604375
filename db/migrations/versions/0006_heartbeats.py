"""What watches the watchers: `heartbeats` of the parts, and the hours of each source, filled from what there is."""

from typing import Final

import sqlalchemy as sa
from alembic import op

import db.models

revision: Final = "0006"
down_revision: str = "0005"
branch_labels: Final = None
depends_on: Final = None


def upgrade() -> None:
    moment = db.models.UtcDateTime(timezone=True)
    op.create_table(
        "heartbeats",
        sa.Column("part", sa.String(length=255), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("machine", sa.String(length=255), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=255), nullable=False),
        sa.Column("started_at", moment, nullable=False),
        sa.Column("progress_at", moment, nullable=False),
        sa.Column("beat_at", moment, nullable=False),
        sa.Column("owed", sa.JSON(), nullable=False),
        sa.Column("done", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("part", name=op.f("pk_heartbeats")),
    )
    op.create_table(
        "source_hours",
        sa.Column("source", sa.String(length=63), nullable=False),
        sa.Column("hour", moment, nullable=False),
        sa.Column("films", sa.Integer(), nullable=False),
        sa.Column("first_at", moment, nullable=False),
        sa.Column("last_at", moment, nullable=False),
        sa.Column("longest_gap", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("source", "hour", name=op.f("pk_source_hours")),
    )
    op.execute(fill(op.get_bind().dialect.name))


def fill(dialect: str) -> str:
    """The hours of the scans that there are."""
    return f"""
        INSERT INTO source_hours (source, hour, films, first_at, last_at, longest_gap)
        SELECT source, hour, count(*), min(at), max(at), coalesce(max(gap), 0)
        FROM (
            SELECT source, hour, at, {GAP[dialect]} AS gap
            FROM (SELECT inbox AS source, {HOUR[dialect]} AS hour, received_at AS at FROM scans) AS dated
            WINDOW one_hour AS (PARTITION BY source, hour ORDER BY at)
        ) AS films
        GROUP BY source, hour
        """  # noqa: S608 - constants of its own


HOUR: Final = {
    "sqlite": "strftime('%Y-%m-%d %H:00:00.000000', received_at)",
    "postgresql": "date_trunc('hour', received_at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'",
}
GAP: Final = {
    "sqlite": "86400 * (julianday(at) - julianday(lag(at) OVER one_hour))",
    "postgresql": "extract(epoch FROM at - lag(at) OVER one_hour)",
}


def downgrade() -> None:
    op.drop_table("source_hours")
    op.drop_table("heartbeats")
