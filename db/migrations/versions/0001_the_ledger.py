"""The ledger: scans and their events, contents, models, predictions, reviews."""

from typing import Final

import sqlalchemy as sa
from alembic import op

import db.models

revision: Final = "0001"
down_revision: Final = None
branch_labels: Final = None
depends_on: Final = None


def upgrade() -> None:

    op.create_table(
        "models",
        sa.Column("version", sa.String(length=128), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("card", sa.JSON(), nullable=False),
        sa.Column("registered_at", db.models.UtcDateTime(timezone=True), nullable=False),
        sa.Column("champion", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_models")),
    )
    op.create_index(
        "uq_models_champion",
        "models",
        ["champion"],
        unique=True,
        postgresql_where=sa.text("champion"),
        sqlite_where=sa.text("champion"),
    )
    op.create_table(
        "scans",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("inbox", sa.String(length=63), nullable=False),
        sa.Column("path_sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("path_bytes", sa.LargeBinary(), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("mtime_ns", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=True),
        sa.Column("detail", sa.String(), nullable=True),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("received_at", db.models.UtcDateTime(timezone=True), nullable=False),
        sa.Column("changed_at", db.models.UtcDateTime(timezone=True), nullable=False),
        sa.Column("not_before", db.models.UtcDateTime(timezone=True), nullable=False),
        sa.Column("rung_at", db.models.UtcDateTime(timezone=True), nullable=True),
        sa.Column("finished_at", db.models.UtcDateTime(timezone=True), nullable=True),
        sa.Column("claim_token", sa.String(length=32), nullable=True),
        sa.Column("claimed_by", sa.String(length=255), nullable=True),
        sa.Column("leased_until", db.models.UtcDateTime(timezone=True), nullable=True),
        sa.Column("deaths", sa.SmallInteger(), nullable=False),
        sa.Column("deaths_alone", sa.SmallInteger(), nullable=False),
        sa.Column("alone", sa.Boolean(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("probability", sa.Double(), nullable=True),
        sa.Column("flagged", sa.Boolean(), nullable=True),
        sa.Column("caution", sa.String(length=64), nullable=True),
        sa.Column("model_version", sa.String(length=128), nullable=True),
        sa.Column("threshold", sa.Double(), nullable=True),
        sa.Column("duplicate_of", sa.BigInteger(), nullable=True),
        sa.Column("superseded_by", sa.BigInteger(), nullable=True),
        sa.Column("verdict", sa.String(length=16), nullable=True),
        sa.Column("reviewer", sa.String(length=255), nullable=True),
        sa.Column("reviewed_at", db.models.UtcDateTime(timezone=True), nullable=True),
        sa.Column("study_uid", sa.String(length=64), nullable=True),
        sa.Column("series_uid", sa.String(length=64), nullable=True),
        sa.Column("sop_uid", sa.String(length=64), nullable=True),
        sa.Column("accession_number", sa.String(length=64), nullable=True),
        sa.Column("modality", sa.String(length=16), nullable=True),
        sa.Column("view_position", sa.String(length=16), nullable=True),
        sa.Column("age_years", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["duplicate_of"], ["scans.id"], name=op.f("fk_scans_duplicate_of")),
        sa.ForeignKeyConstraint(["superseded_by"], ["scans.id"], name=op.f("fk_scans_superseded_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_scans")),
        sa.UniqueConstraint(
            "path_sha256", "inbox", "size", "mtime_ns", name=op.f("uq_scans_path_sha256_inbox_size_mtime_ns")
        ),
    )
    op.create_index(
        "ix_scans_duplicate_of",
        "scans",
        ["duplicate_of"],
        unique=False,
        postgresql_where=sa.text("duplicate_of IS NOT NULL"),
        sqlite_where=sa.text("duplicate_of IS NOT NULL"),
    )
    op.create_index(
        "ix_scans_flagged",
        "scans",
        ["probability", "id"],
        unique=False,
        postgresql_where=sa.text("flagged AND state = 'classified' AND superseded_by IS NULL"),
        sqlite_where=sa.text("flagged AND state = 'classified' AND superseded_by IS NULL"),
    )
    op.create_index(
        "ix_scans_running",
        "scans",
        ["id"],
        unique=False,
        postgresql_where=sa.text("state = 'running'"),
        sqlite_where=sa.text("state = 'running'"),
    )
    op.create_index(
        "ix_scans_unrung",
        "scans",
        ["not_before"],
        unique=False,
        postgresql_where=sa.text("state = 'queued' AND rung_at IS NULL"),
        sqlite_where=sa.text("state = 'queued' AND rung_at IS NULL"),
    )
    op.create_index(
        "ix_scans_unread",
        "scans",
        ["probability", "id"],
        unique=False,
        postgresql_where=sa.text("flagged AND state = 'classified' AND superseded_by IS NULL AND verdict IS NULL"),
        sqlite_where=sa.text("flagged AND state = 'classified' AND superseded_by IS NULL AND verdict IS NULL"),
    )
    op.create_index(
        "ix_scans_received",
        "scans",
        ["received_at"],
        unique=False,
        postgresql_where=sa.text("state IN ('queued', 'running')"),
        sqlite_where=sa.text("state IN ('queued', 'running')"),
    )
    op.create_index(
        "ix_scans_unscored",
        "scans",
        ["id"],
        unique=False,
        postgresql_where=sa.text("state IN ('rejected', 'failed') AND superseded_by IS NULL"),
        sqlite_where=sa.text("state IN ('rejected', 'failed') AND superseded_by IS NULL"),
    )
    op.create_index(
        "ix_scans_waiting",
        "scans",
        ["priority", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'queued'"),
        sqlite_where=sa.text("state = 'queued'"),
    )
    op.create_table(
        "contents",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("scan_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["scan_id"], ["scans.id"], name=op.f("fk_contents_scan_id")),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_contents")),
    )
    op.create_table(
        "predictions",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("scan_id", sa.BigInteger(), nullable=False),
        sa.Column("model_version", sa.String(length=128), nullable=False),
        sa.Column("probability", sa.Double(), nullable=False),
        sa.Column("threshold", sa.Double(), nullable=False),
        sa.Column("flagged", sa.Boolean(), nullable=False),
        sa.Column("current", sa.Boolean(), nullable=False),
        sa.Column("made_at", db.models.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["model_version"], ["models.version"], name=op.f("fk_predictions_model_version")),
        sa.ForeignKeyConstraint(["scan_id"], ["scans.id"], name=op.f("fk_predictions_scan_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_predictions")),
        sa.UniqueConstraint("scan_id", "model_version", name=op.f("uq_predictions_scan_id_model_version")),
    )
    op.create_index(
        "uq_predictions_current",
        "predictions",
        ["scan_id"],
        unique=True,
        postgresql_where=sa.text("current"),
        sqlite_where=sa.text("current"),
    )
    op.create_table(
        "scan_events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("scan_id", sa.BigInteger(), nullable=False),
        sa.Column("from_state", sa.String(length=16), nullable=True),
        sa.Column("to_state", sa.String(length=16), nullable=False),
        sa.Column("at", db.models.UtcDateTime(timezone=True), nullable=False),
        sa.Column("by", sa.String(length=255), nullable=False),
        sa.Column("detail", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["scan_id"], ["scans.id"], name=op.f("fk_scan_events_scan_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_scan_events")),
    )
    op.create_index(op.f("ix_scan_events_scan_id"), "scan_events", ["scan_id"], unique=False)
    op.create_table(
        "reviews",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("scan_id", sa.BigInteger(), nullable=False),
        sa.Column("prediction_id", sa.BigInteger(), nullable=True),
        sa.Column("verdict", sa.String(length=16), nullable=False),
        sa.Column("reviewer", sa.String(length=255), nullable=False),
        sa.Column("comment", sa.String(), nullable=True),
        sa.Column("reviewed_at", db.models.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["prediction_id"], ["predictions.id"], name=op.f("fk_reviews_prediction_id")),
        sa.ForeignKeyConstraint(["scan_id"], ["scans.id"], name=op.f("fk_reviews_scan_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reviews")),
    )
    op.create_index(op.f("ix_reviews_scan_id"), "reviews", ["scan_id"], unique=False)


def downgrade() -> None:
    for table in ("reviews", "scan_events", "predictions", "contents", "scans", "models"):
        op.drop_table(table)
