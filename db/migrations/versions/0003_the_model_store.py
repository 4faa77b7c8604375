"""The model store: models with their archives, and which of them served when."""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0003"
down_revision: Final = "0002"
branch_labels: Final = None
depends_on: Final = None

BigKey: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("models", sa.Column("archive", sa.LargeBinary(), nullable=True))
    op.add_column("models", sa.Column("archive_sha256", sa.String(length=64), nullable=True))
    op.create_table(
        "promotions",
        sa.Column("id", BigKey, nullable=False),
        sa.Column("version", sa.String(length=128), nullable=False),
        sa.Column("previous", sa.String(length=128), nullable=True),
        sa.Column("back", sa.Boolean(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("by", sa.String(length=255), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["version"], ["models.version"], name=op.f("fk_promotions_version")),
        sa.ForeignKeyConstraint(["previous"], ["models.version"], name=op.f("fk_promotions_previous")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_promotions")),
    )
    op.execute(
        """
        INSERT INTO promotions (version, back, at, by, reason)
        SELECT version, false, registered_at, 'db upgrade', 'it was the first model here' FROM models WHERE champion
        """
    )


def downgrade() -> None:
    op.drop_table("promotions")
    for column in ("archive_sha256", "archive"):
        op.drop_column("models", column)
