"""All tables of the first release. `db.views` makes the views after every migration.

The indexes are created in the order of this file. Of two indexes that serve equally well, SQLite takes the one that was
made last, and the query for unread cases needs `ix_scans_unread`, not `ix_scans_flagged`.
"""

from typing import Final

import sqlalchemy as sa
from alembic import op

revision: Final = "0001_initial"
down_revision: Final = None
branch_labels: Final = None
depends_on: Final = None

BigKey: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Moment: Final = sa.DateTime(timezone=True)

IS_CURRENT: Final = "(superseded_by IS NULL OR current_duplicate IS NOT NULL)"
IS_CASE: Final = f"flagged AND state = 'classified' AND {IS_CURRENT}"
IN_WORKLIST: Final = f"worklist_rank IS NOT NULL AND {IS_CURRENT}"
TO_READ: Final = f"{IN_WORKLIST} AND verdict IS NULL"

# {name: (columns, condition of a partial index)}
SCAN_INDEXES: Final[dict[str, tuple[list[str], str | None]]] = {
    "ix_scans_running": (["id"], "state = 'running'"),
    "ix_scans_unannounced": (["not_before"], "state = 'queued' AND announced_at IS NULL"),
    "ix_scans_received": (["received_at"], "state IN ('queued', 'running')"),
    "ix_scans_unscored": (["id"], "state IN ('rejected', 'failed') AND superseded_by IS NULL"),
    "ix_scans_waiting": (["priority", "id"], "state = 'queued'"),
    "ix_scans_duplicate_of": (["duplicate_of", "id"], "duplicate_of IS NOT NULL"),
    "ix_scans_flagged": (["probability", "id"], IS_CASE),
    "ix_scans_unread": (["probability", "id"], f"{IS_CASE} AND verdict IS NULL"),
    "ix_scans_worklist": (["worklist_rank", "id", "received_at", "inbox"], TO_READ),
    "ix_scans_unread_since": (["received_at", "id", "worklist_rank", "inbox"], TO_READ),
    "ix_scans_in_worklist": (["worklist_rank", "id", "flagged"], IN_WORKLIST),
    "ix_scans_arrived": (["received_at", "id"], None),
    "ix_scans_arrived_from": (["inbox", "received_at", "id"], None),
    "ix_scans_reviewed": (["verdict", "received_at", "id"], "verdict IS NOT NULL"),
    "ix_scans_cautioned": (["caution", "received_at", "id"], "caution IS NOT NULL"),
    "ix_scans_probable": (["probability", "received_at", "id"], "probability IS NOT NULL"),
    "ix_scans_without_result": (["state", "received_at", "id"], "state IN ('rejected', 'failed', 'duplicate')"),
    "ix_scans_sampled": (["received_at"], "sampled_share IS NOT NULL"),
    "ix_scans_study": (["study_uid", "id"], "study_uid IS NOT NULL"),
    "ix_scans_accession": (["accession_number", "id"], "accession_number IS NOT NULL"),
    "ix_scans_patient_key": (["patient_key"], "patient_key IS NOT NULL"),
    "ix_scans_ended": (
        ["inbox", "state", "finished_at"],
        "state IN ('classified', 'rejected', 'duplicate', 'failed')",
    ),
}
OUTBOX_INDEXES: Final = {
    "ix_outbox_waiting": (["channel", "not_before"], "state = 'waiting'"),
    "ix_outbox_token": (["token"], "token IS NOT NULL"),
    "ix_outbox_sent": (["channel", "ended_at"], "state = 'sent'"),
    "ix_outbox_given_up": (["channel"], "state = 'given_up'"),
}


def upgrade() -> None:
    _create_models()
    _create_scans()
    _create_predictions_and_reviews()
    _create_outbox()
    _create_training_runs()
    _create_accounts()
    _create_health()


def downgrade() -> None:
    # referring tables before those that they refer to
    for table in (
        *("source_hours", "heartbeats", "inboxes", "deployment"),
        *("audit", "sign_in_failures", "api_tokens", "sessions", "users"),
        *("training_runs", "outbox", "retractions", "reviews", "predictions"),
        *("scan_events", "contents", "scans", "promotions", "models"),
    ):
        op.drop_table(table)


def _create_models() -> None:
    op.create_table(
        "models",
        sa.Column("version", sa.String(128), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("card", sa.JSON(), nullable=False),
        sa.Column("registered_at", Moment, nullable=False),
        sa.Column("champion", sa.Boolean(), nullable=False),
        sa.Column("archive", sa.LargeBinary(), nullable=True),
        sa.Column("archive_sha256", sa.String(64), nullable=True),
        sa.PrimaryKeyConstraint("version", name="pk_models"),
    )
    _create_index("uq_models_champion", "models", ["champion"], "champion", unique=True)
    op.create_table(
        "promotions",
        sa.Column("id", BigKey, nullable=False),
        sa.Column("version", sa.String(128), nullable=False),
        sa.Column("previous", sa.String(128), nullable=True),
        sa.Column("is_rollback", sa.Boolean(), nullable=False),
        sa.Column("at", Moment, nullable=False),
        sa.Column("by", sa.String(255), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["version"], ["models.version"], name="fk_promotions_version"),
        sa.ForeignKeyConstraint(["previous"], ["models.version"], name="fk_promotions_previous"),
        sa.PrimaryKeyConstraint("id", name="pk_promotions"),
    )


def _create_scans() -> None:
    op.create_table(
        "scans",
        sa.Column("id", BigKey, nullable=False),
        # identity
        sa.Column("inbox", sa.String(63), nullable=False),
        sa.Column("path_sha256", sa.LargeBinary(32), nullable=False),
        sa.Column("path_bytes", sa.LargeBinary(), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("mtime_ns", sa.BigInteger(), nullable=False),
        # life
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(32), nullable=True),
        sa.Column("detail", sa.String(), nullable=True),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("received_at", Moment, nullable=False),
        sa.Column("changed_at", Moment, nullable=False),
        sa.Column("not_before", Moment, nullable=False),
        sa.Column("announced_at", Moment, nullable=True),
        sa.Column("finished_at", Moment, nullable=True),
        # claim
        sa.Column("claim_token", sa.String(32), nullable=True),
        sa.Column("claimed_by", sa.String(255), nullable=True),
        sa.Column("leased_until", Moment, nullable=True),
        sa.Column("lost_leases", sa.SmallInteger(), nullable=False),
        sa.Column("lost_leases_exclusive", sa.SmallInteger(), nullable=False),
        sa.Column("exclusive", sa.Boolean(), nullable=False),
        # result
        sa.Column("sha256", sa.String(64), nullable=True),
        sa.Column("probability", sa.Double(), nullable=True),
        sa.Column("flagged", sa.Boolean(), nullable=True),
        sa.Column("caution", sa.String(64), nullable=True),
        sa.Column("model_version", sa.String(128), nullable=True),
        sa.Column("threshold", sa.Double(), nullable=True),
        sa.Column("duplicate_of", sa.BigInteger(), nullable=True),
        sa.Column("superseded_by", sa.BigInteger(), nullable=True),
        sa.Column("current_duplicate", sa.BigInteger(), nullable=True),
        # place in the worklist
        sa.Column("worklist_rank", sa.Double(), nullable=True),
        sa.Column("hidden_until_verdict", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("sampled_share", sa.Double(), nullable=True),
        # current verdict
        sa.Column("verdict", sa.String(16), nullable=True),
        sa.Column("reviewer", sa.String(255), nullable=True),
        sa.Column("reviewed_at", Moment, nullable=True),
        # from the DICOM header
        sa.Column("study_uid", sa.String(64), nullable=True),
        sa.Column("series_uid", sa.String(64), nullable=True),
        sa.Column("sop_uid", sa.String(64), nullable=True),
        sa.Column("accession_number", sa.String(64), nullable=True),
        sa.Column("modality", sa.String(16), nullable=True),
        sa.Column("view_position", sa.String(16), nullable=True),
        sa.Column("age_years", sa.Double(), nullable=True),
        sa.Column("sex", sa.String(1), nullable=True),
        sa.Column("patient_key", sa.String(64), nullable=True),
        sa.ForeignKeyConstraint(["duplicate_of"], ["scans.id"], name="fk_scans_duplicate_of"),
        sa.ForeignKeyConstraint(["superseded_by"], ["scans.id"], name="fk_scans_superseded_by"),
        sa.ForeignKeyConstraint(["current_duplicate"], ["scans.id"], name="fk_scans_current_duplicate"),
        sa.PrimaryKeyConstraint("id", name="pk_scans"),
        sa.UniqueConstraint(
            *("path_sha256", "inbox", "size", "mtime_ns"), name="uq_scans_path_sha256_inbox_size_mtime_ns"
        ),
    )
    for name, (columns, condition) in SCAN_INDEXES.items():
        _create_index(name, "scans", columns, condition)
    op.create_table(
        "contents",
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("scan_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["scan_id"], ["scans.id"], name="fk_contents_scan_id"),
        sa.PrimaryKeyConstraint("sha256", name="pk_contents"),
    )
    op.create_table(
        "scan_events",
        sa.Column("id", BigKey, nullable=False),
        sa.Column("scan_id", sa.BigInteger(), nullable=False),
        sa.Column("from_state", sa.String(16), nullable=True),
        sa.Column("to_state", sa.String(16), nullable=False),
        sa.Column("at", Moment, nullable=False),
        sa.Column("by", sa.String(255), nullable=False),
        sa.Column("detail", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["scan_id"], ["scans.id"], name="fk_scan_events_scan_id"),
        sa.PrimaryKeyConstraint("id", name="pk_scan_events"),
    )
    _create_index("ix_scan_events_scan_id", "scan_events", ["scan_id"])


def _create_predictions_and_reviews() -> None:
    op.create_table(
        "predictions",
        sa.Column("id", BigKey, nullable=False),
        sa.Column("scan_id", sa.BigInteger(), nullable=False),
        sa.Column("model_version", sa.String(128), nullable=False),
        sa.Column("probability", sa.Double(), nullable=False),
        sa.Column("threshold", sa.Double(), nullable=False),
        sa.Column("flagged", sa.Boolean(), nullable=False),
        sa.Column("gate_score", sa.Double(), nullable=True),
        sa.Column("brightness", sa.Double(), nullable=True),
        sa.Column("current", sa.Boolean(), nullable=False),
        sa.Column("made_at", Moment, nullable=False),
        sa.ForeignKeyConstraint(["scan_id"], ["scans.id"], name="fk_predictions_scan_id"),
        sa.ForeignKeyConstraint(["model_version"], ["models.version"], name="fk_predictions_model_version"),
        sa.PrimaryKeyConstraint("id", name="pk_predictions"),
        sa.UniqueConstraint("scan_id", "model_version", name="uq_predictions_scan_id_model_version"),
    )
    _create_index("uq_predictions_current", "predictions", ["scan_id"], "current", unique=True)
    op.create_table(
        "reviews",
        sa.Column("id", BigKey, nullable=False),
        sa.Column("scan_id", sa.BigInteger(), nullable=False),
        sa.Column("prediction_id", sa.BigInteger(), nullable=True),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("reviewer", sa.String(255), nullable=False),
        sa.Column("comment", sa.String(), nullable=True),
        sa.Column("reviewed_at", Moment, nullable=False),
        sa.ForeignKeyConstraint(["scan_id"], ["scans.id"], name="fk_reviews_scan_id"),
        sa.ForeignKeyConstraint(["prediction_id"], ["predictions.id"], name="fk_reviews_prediction_id"),
        sa.PrimaryKeyConstraint("id", name="pk_reviews"),
    )
    _create_index("ix_reviews_scan_id", "reviews", ["scan_id"])
    op.create_table(
        "retractions",
        sa.Column("review_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("retracted_at", Moment, nullable=False),
        sa.ForeignKeyConstraint(["review_id"], ["reviews.id"], name="fk_retractions_review_id"),
        sa.PrimaryKeyConstraint("review_id", name="pk_retractions"),
    )


def _create_outbox() -> None:
    op.create_table(
        "outbox",
        sa.Column("id", BigKey, nullable=False),
        sa.Column("scan_id", sa.BigInteger(), nullable=False),
        sa.Column("channel", sa.String(16), nullable=False),
        sa.Column("model_version", sa.String(128), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("since", Moment, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("not_before", Moment, nullable=False),
        sa.Column("token", sa.String(32), nullable=True),
        sa.Column("last_error", sa.String(64), nullable=True),
        sa.Column("ended_at", Moment, nullable=True),
        sa.ForeignKeyConstraint(["scan_id"], ["scans.id"], name="fk_outbox_scan_id"),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
        sa.UniqueConstraint("scan_id", "channel", name="uq_outbox_scan_id_channel"),
    )
    for name, (columns, condition) in OUTBOX_INDEXES.items():
        _create_index(name, "outbox", columns, condition)


def _create_training_runs() -> None:
    op.create_table(
        "training_runs",
        sa.Column("id", BigKey, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("token", sa.String(32), nullable=False),
        sa.Column("by", sa.String(255), nullable=False),
        sa.Column("stage", sa.String(32), nullable=False),
        sa.Column("started_at", Moment, nullable=False),
        sa.Column("renewed_at", Moment, nullable=False),
        sa.Column("ended_at", Moment, nullable=True),
        sa.Column("decision", sa.String(32), nullable=True),
        sa.Column("reasons", sa.JSON(), nullable=False),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.Column("champion", sa.String(128), nullable=True),
        sa.Column("challenger", sa.String(128), nullable=True),
        sa.Column("new_labels", sa.Integer(), nullable=True),
        sa.Column("last_review_id", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_training_runs"),
    )
    _create_index("uq_training_runs_running", "training_runs", ["state"], "state = 'running'", unique=True)


def _create_accounts() -> None:
    op.create_table(
        "users",
        sa.Column("id", BigKey, nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("password_hash", sa.String(255), nullable=False),
        sa.Column("created_at", Moment, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
        sa.UniqueConstraint("name", name="uq_users_name"),
    )
    op.create_table(
        "sessions",
        sa.Column("token_sha256", sa.String(64), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=True),
        sa.Column("created_at", Moment, nullable=False),
        sa.Column("seen_at", Moment, nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_sessions_user_id"),
        sa.PrimaryKeyConstraint("token_sha256", name="pk_sessions"),
    )
    _create_index("ix_sessions_user_id", "sessions", ["user_id"])
    op.create_table(
        "api_tokens",
        sa.Column("id", BigKey, nullable=False),
        sa.Column("token_sha256", sa.String(64), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("label", sa.String(64), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("created_at", Moment, nullable=False),
        sa.Column("used_at", Moment, nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_api_tokens_user_id"),
        sa.PrimaryKeyConstraint("id", name="pk_api_tokens"),
        sa.UniqueConstraint("token_sha256", name="uq_api_tokens_token_sha256"),
    )
    _create_index("ix_api_tokens_user_id", "api_tokens", ["user_id"])
    op.create_table(
        "sign_in_failures",
        sa.Column("key", sa.String(80), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("last_at", Moment, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_sign_in_failures"),
    )
    op.create_table(
        "audit",
        sa.Column("id", BigKey, nullable=False),
        sa.Column("at", Moment, nullable=False),
        sa.Column("who", sa.String(255), nullable=False),
        sa.Column("what", sa.String(32), nullable=False),
        sa.Column("scan_id", sa.BigInteger(), nullable=True),
        sa.Column("detail", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    _create_index("ix_audit_scan_id", "audit", ["scan_id"])


def _create_health() -> None:
    op.create_table(
        "deployment",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("value", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_deployment"),
    )
    op.create_table(
        "inboxes",
        sa.Column("inbox", sa.String(63), nullable=False),
        sa.Column("machine", sa.String(255), nullable=False),
        sa.Column("root", sa.String(), nullable=False),
        sa.Column("kind", sa.String(64), nullable=True),
        sa.Column("mount_point", sa.String(), nullable=True),
        sa.Column("identity", sa.String(), nullable=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("since", Moment, nullable=False),
        sa.Column("detail", sa.String(), nullable=True),
        sa.Column("last_scan_id", sa.BigInteger(), nullable=True),
        sa.Column("seen_at", Moment, nullable=False),
        sa.Column("watch_mode", sa.String(8), nullable=True),
        sa.Column("rescanned_at", Moment, nullable=True),
        sa.Column("rescan_seconds", sa.Double(), nullable=True),
        sa.Column("files", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("inbox", "machine", name="pk_inboxes"),
    )
    op.create_table(
        "heartbeats",
        sa.Column("component", sa.String(255), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("machine", sa.String(255), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(255), nullable=False),
        sa.Column("started_at", Moment, nullable=False),
        sa.Column("progress_at", Moment, nullable=False),
        sa.Column("beat_at", Moment, nullable=False),
        sa.Column("expectations", sa.JSON(), nullable=False),
        sa.Column("done", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("component", name="pk_heartbeats"),
    )
    op.create_table(
        "source_hours",
        sa.Column("source", sa.String(63), nullable=False),
        sa.Column("hour", Moment, nullable=False),
        sa.Column("images", sa.Integer(), nullable=False),
        sa.Column("first_at", Moment, nullable=False),
        sa.Column("last_at", Moment, nullable=False),
        sa.Column("longest_gap", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("source", "hour", name="pk_source_hours"),
    )


def _create_index(
    name: str, table: str, columns: list[str], condition: str | None = None, unique: bool = False
) -> None:
    where = None if condition is None else sa.text(condition)
    op.create_index(name, table, columns, unique=unique, postgresql_where=where, sqlite_where=where)
