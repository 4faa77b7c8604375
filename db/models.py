"""The tables. `db.ledger.transitions` and `db.registry.model_registry` say what may change in scans and models."""

from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    TypeDecorator,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time: aware and in UTC in Python, on every database. Raises ValueError for naive values."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# Triage levels of emergency departments, 1 to 5; the lower number goes first.
STAT: Final = 1
ROUTINE: Final = 5

BigKey = BigInteger().with_variant(Integer, "sqlite")  # in SQLite only INTEGER PRIMARY KEY is generated


# The content of the scan is still there, at its own path or at that of a duplicate. The partial indexes and the views
# use the same text.
IS_CURRENT: Final = "(superseded_by IS NULL OR current_duplicate IS NOT NULL)"
IN_WORKLIST: Final = f"worklist_rank IS NOT NULL AND {IS_CURRENT}"  # in the readers' worklist
TO_READ: Final = f"{IN_WORKLIST} AND verdict IS NULL"  # in the worklist, without a verdict


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


def _worklist_indexes() -> list[Index]:
    """Return the indexes that `db.worklist.worklist` and `db.worklist.statistics` need."""
    indexes = {
        # the worklist, by rank and by waiting time; the other columns are for filters
        "worklist": ("worklist_rank, id, received_at, inbox", TO_READ),
        "unread_since": ("received_at, id, worklist_rank, inbox", TO_READ),
        "in_worklist": ("worklist_rank, id, flagged", IN_WORKLIST),
        # all scans, the newest first, by conditions that may hold for few
        "arrived": ("received_at, id", None),
        "arrived_from": ("inbox, received_at, id", None),
        "reviewed": ("verdict, received_at, id", "verdict IS NOT NULL"),
        "cautioned": ("caution, received_at, id", "caution IS NOT NULL"),
        "probable": ("probability, received_at, id", "probability IS NOT NULL"),
        "without_result": ("state, received_at, id", "state IN ('rejected', 'failed', 'duplicate')"),
        "sampled": ("received_at", "sampled_share IS NOT NULL"),
        # by study, and by the accession number that a reader knows
        "study": ("study_uid, id", "study_uid IS NOT NULL"),
        "accession": ("accession_number, id", "accession_number IS NOT NULL"),
    }
    return [
        Index(
            f"ix_scans_{name}",
            *columns.split(", "),
            postgresql_where=None if where is None else text(where),
            sqlite_where=None if where is None else text(where),
        )
        for name, (columns, where) in indexes.items()
    ]


class Scan(Base):
    """One file with one content (as far as size and mtime tell) at one path of one inbox."""

    __tablename__ = "scans"

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)

    # identity: raw bytes for opening (names need not be UTF-8), their hash for the index, text for people
    inbox: Mapped[str] = mapped_column(String(63))
    path_sha256: Mapped[bytes] = mapped_column(LargeBinary(32))
    path_bytes: Mapped[bytes] = mapped_column(LargeBinary)
    path: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger)
    mtime_ns: Mapped[int] = mapped_column(BigInteger)

    # life
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str | None] = mapped_column(String(32))
    detail: Mapped[str | None]
    priority: Mapped[int] = mapped_column(SmallInteger, default=ROUTINE)
    received_at: Mapped[datetime] = mapped_column(UtcDateTime)
    changed_at: Mapped[datetime] = mapped_column(UtcDateTime)  # when the watcher last saw the file change
    not_before: Mapped[datetime] = mapped_column(UtcDateTime)
    announced_at: Mapped[datetime | None] = mapped_column(UtcDateTime)  # last announced to the broker
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    # claim
    claim_token: Mapped[str | None] = mapped_column(String(32))
    claimed_by: Mapped[str | None] = mapped_column(String(255))
    leased_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    lost_leases: Mapped[int] = mapped_column(SmallInteger, default=0)  # leases that expired
    lost_leases_exclusive: Mapped[int] = mapped_column(SmallInteger, default=0)  # ... processed alone
    exclusive: Mapped[bool] = mapped_column(Boolean, default=False)

    # result: a copy of the current prediction, so that views and worklists need no join
    sha256: Mapped[str | None] = mapped_column(String(64))
    probability: Mapped[float | None]
    flagged: Mapped[bool | None]
    caution: Mapped[str | None] = mapped_column(String(64))
    model_version: Mapped[str | None] = mapped_column(String(128))
    threshold: Mapped[float | None]
    duplicate_of: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("scans.id"))
    superseded_by: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("scans.id"))
    # of a superseded original: its oldest duplicate that is not superseded
    current_duplicate: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("scans.id"))

    # position in the readers' worklist, from `db.ledger.sampling`
    worklist_rank: Mapped[float | None]
    hidden_until_verdict: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())
    sampled_share: Mapped[float | None]

    # current verdict
    verdict: Mapped[str | None] = mapped_column(String(16))
    reviewer: Mapped[str | None] = mapped_column(String(255))
    reviewed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    # from the DICOM header, see `pneumowatch.header.Header`
    study_uid: Mapped[str | None] = mapped_column(String(64))
    series_uid: Mapped[str | None] = mapped_column(String(64))
    sop_uid: Mapped[str | None] = mapped_column(String(64))
    accession_number: Mapped[str | None] = mapped_column(String(64))
    modality: Mapped[str | None] = mapped_column(String(16))
    view_position: Mapped[str | None] = mapped_column(String(16))
    age_years: Mapped[float | None]
    sex: Mapped[str | None] = mapped_column(String(1))
    patient_key: Mapped[str | None] = mapped_column(String(64))

    __table_args__ = (
        # the hash first: there are few inboxes, so an index that begins with them reads whole folders to find a file
        UniqueConstraint("path_sha256", "inbox", "size", "mtime_ns"),
        Index(
            "ix_scans_waiting",
            "priority",
            "id",
            postgresql_where=text("state = 'queued'"),
            sqlite_where=text("state = 'queued'"),
        ),
        Index(
            "ix_scans_unannounced",
            "not_before",
            postgresql_where=text("state = 'queued' AND announced_at IS NULL"),
            sqlite_where=text("state = 'queued' AND announced_at IS NULL"),
        ),
        Index(
            "ix_scans_running",
            "id",
            postgresql_where=text("state = 'running'"),
            sqlite_where=text("state = 'running'"),
        ),
        Index(
            "ix_scans_flagged",
            "probability",
            "id",
            postgresql_where=text(f"flagged AND state = 'classified' AND {IS_CURRENT}"),
            sqlite_where=text(f"flagged AND state = 'classified' AND {IS_CURRENT}"),
        ),
        Index(
            "ix_scans_unread",
            "probability",
            "id",
            postgresql_where=text(f"flagged AND state = 'classified' AND {IS_CURRENT} AND verdict IS NULL"),
            sqlite_where=text(f"flagged AND state = 'classified' AND {IS_CURRENT} AND verdict IS NULL"),
        ),
        Index(
            "ix_scans_received",
            "received_at",
            postgresql_where=text("state IN ('queued', 'running')"),
            sqlite_where=text("state IN ('queued', 'running')"),
        ),
        Index(
            "ix_scans_unscored",
            "id",
            postgresql_where=text("state IN ('rejected', 'failed') AND superseded_by IS NULL"),
            sqlite_where=text("state IN ('rejected', 'failed') AND superseded_by IS NULL"),
        ),
        Index(
            "ix_scans_ended",
            "inbox",
            "state",
            "finished_at",
            postgresql_where=text("state IN ('classified', 'rejected', 'duplicate', 'failed')"),
            sqlite_where=text("state IN ('classified', 'rejected', 'duplicate', 'failed')"),
        ),
        Index(
            "ix_scans_patient_key",
            "patient_key",
            postgresql_where=text("patient_key IS NOT NULL"),
            sqlite_where=text("patient_key IS NOT NULL"),
        ),
        Index(
            "ix_scans_duplicate_of",
            "duplicate_of",
            "id",
            postgresql_where=text("duplicate_of IS NOT NULL"),
            sqlite_where=text("duplicate_of IS NOT NULL"),
        ),
        *_worklist_indexes(),
    )


class Content(Base):
    """The classified scan that owns a content. The unique key resolves concurrent duplicates in two workers.

    The image's bytes are one key. For DICOM, the SOP instance with its pixels is another (`db.ledger.outcomes`). The
    bytes of a scan that is a duplicate by the second key lead to the original as well.
    """

    __tablename__ = "contents"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    scan_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("scans.id"))


class ScanEvent(Base):
    """One transition of one scan, written in the same transaction."""

    __tablename__ = "scan_events"

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    scan_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("scans.id"), index=True)
    from_state: Mapped[str | None] = mapped_column(String(16))
    to_state: Mapped[str] = mapped_column(String(16))
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    by: Mapped[str] = mapped_column(String(255))
    detail: Mapped[str | None]


class Model(Base):
    """A registered model, with its card and its folder as packed by `db.registry.model_cache`.

    `sha256` is that of the weights alone. A row never changes, except for the champion mark.
    """

    __tablename__ = "models"

    version: Mapped[str] = mapped_column(String(128), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64))
    card: Mapped[dict[str, Any]] = mapped_column(JSON)
    registered_at: Mapped[datetime] = mapped_column(UtcDateTime)
    champion: Mapped[bool] = mapped_column(Boolean, default=False)
    archive: Mapped[bytes | None] = mapped_column(LargeBinary)  # None where an earlier version registered it
    archive_sha256: Mapped[str | None] = mapped_column(String(64))

    __table_args__ = (
        Index(
            "uq_models_champion",
            "champion",
            unique=True,
            postgresql_where=text("champion"),
            sqlite_where=text("champion"),
        ),
    )


class Promotion(Base):
    """One change of the champion: the new model and the previous one. `is_rollback`: it was a rollback."""

    __tablename__ = "promotions"

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    version: Mapped[str] = mapped_column(String(128), ForeignKey("models.version"))
    previous: Mapped[str | None] = mapped_column(String(128), ForeignKey("models.version"))
    is_rollback: Mapped[bool] = mapped_column(Boolean)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    by: Mapped[str] = mapped_column(String(255))
    reason: Mapped[str]


class Prediction(Base):
    """The prediction of one model for one scan. The current one is copied into the scan's row."""

    __tablename__ = "predictions"

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    scan_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("scans.id"))
    model_version: Mapped[str] = mapped_column(String(128), ForeignKey("models.version"))
    probability: Mapped[float]
    threshold: Mapped[float]
    flagged: Mapped[bool]
    # for `db.health.drift`; None where an earlier version made the prediction
    gate_score: Mapped[float | None]  # from the model's input gate
    brightness: Mapped[float | None]  # mean gray level, 0 to 255
    current: Mapped[bool] = mapped_column(Boolean)
    made_at: Mapped[datetime] = mapped_column(UtcDateTime)

    __table_args__ = (
        UniqueConstraint("scan_id", "model_version"),
        Index(
            "uq_predictions_current",
            "scan_id",
            unique=True,
            postgresql_where=text("current"),
            sqlite_where=text("current"),
        ),
    )


class Review(Base):
    """A reader's verdict on a scan, with the prediction that the reader saw."""

    __tablename__ = "reviews"

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    scan_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("scans.id"), index=True)
    prediction_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("predictions.id"))
    verdict: Mapped[str] = mapped_column(String(16))
    reviewer: Mapped[str] = mapped_column(String(255))
    comment: Mapped[str | None]
    reviewed_at: Mapped[datetime] = mapped_column(UtcDateTime)


class Retraction(Base):
    """The retraction of a verdict by its reader, at most one per review. The review itself stays."""

    __tablename__ = "retractions"

    review_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("reviews.id"), primary_key=True, autoincrement=False)
    retracted_at: Mapped[datetime] = mapped_column(UtcDateTime)


class TrainingRun(Base):
    """One training run, from its start to its decision: see `db.registry.training_runs`.

    While the run lasts, its row is the lease that keeps others from starting. `token` identifies the holder, and each
    progress renews `renewed_at`.
    """

    __tablename__ = "training_runs"

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    state: Mapped[str] = mapped_column(String(16))
    token: Mapped[str] = mapped_column(String(32))
    by: Mapped[str] = mapped_column(String(255))
    stage: Mapped[str] = mapped_column(String(32))
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
    renewed_at: Mapped[datetime] = mapped_column(UtcDateTime)
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    decision: Mapped[str | None] = mapped_column(String(32))
    reasons: Mapped[list[str]] = mapped_column(JSON)  # sentences
    figures: Mapped[dict[str, Any]] = mapped_column(JSON)
    champion: Mapped[str | None] = mapped_column(String(128))  # the run started from it
    challenger: Mapped[str | None] = mapped_column(String(128))  # in `models` only if it was promoted
    new_labels: Mapped[int | None]
    last_review_id: Mapped[int | None] = mapped_column(BigInteger)  # the newest review that it used

    __table_args__ = (
        Index(
            "uq_training_runs_running",
            "state",
            unique=True,
            postgresql_where=text("state = 'running'"),
            sqlite_where=text("state = 'running'"),
        ),
    )


class Inbox(Base):
    """An inbox as one machine sees it: its folder, and whether it is available. See `db.health.inbox_presence`."""

    __tablename__ = "inboxes"

    inbox: Mapped[str] = mapped_column(String(63), primary_key=True)
    machine: Mapped[str] = mapped_column(String(255), primary_key=True)
    root: Mapped[str]  # the folder on that machine
    kind: Mapped[str | None] = mapped_column(String(64))  # file system type; None until it was available once
    mount_point: Mapped[str | None]
    identity: Mapped[str | None]  # see `pneumowatch.mount_identity.MountedFolder`
    state: Mapped[str] = mapped_column(String(16))  # available or unavailable
    since: Mapped[datetime] = mapped_column(UtcDateTime)
    detail: Mapped[str | None]  # why it is unavailable: a sentence
    last_scan_id: Mapped[int | None] = mapped_column(BigInteger)  # the newest scan when it became unavailable
    seen_at: Mapped[datetime] = mapped_column(UtcDateTime)
    watch_mode: Mapped[str | None] = mapped_column(String(8))  # events, poll or both; None where no watcher runs
    rescanned_at: Mapped[datetime | None] = mapped_column(UtcDateTime)  # the end of the last rescan
    rescan_seconds: Mapped[float | None]  # its duration
    files: Mapped[int | None] = mapped_column(BigInteger)  # the number of files that it saw


class Outbox(Base):
    """A notification about one newly flagged scan, for one channel: see `db.ledger.outbox`."""

    __tablename__ = "outbox"

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    scan_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("scans.id"))
    channel: Mapped[str] = mapped_column(String(16))  # webhook, mail or pacs
    model_version: Mapped[str] = mapped_column(String(128))  # the model whose prediction it reports
    state: Mapped[str] = mapped_column(String(16))
    # the time of flagging, later that of the first attempt: the time until giving up counts from it
    since: Mapped[datetime] = mapped_column(UtcDateTime)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    not_before: Mapped[datetime] = mapped_column(UtcDateTime)
    token: Mapped[str | None] = mapped_column(String(32))  # of the sender that holds it, until `not_before`
    last_error: Mapped[str | None] = mapped_column(String(64))
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)  # when it was sent or given up

    __table_args__ = (
        UniqueConstraint("scan_id", "channel"),
        Index(
            "ix_outbox_waiting",
            "channel",
            "not_before",
            postgresql_where=text("state = 'waiting'"),
            sqlite_where=text("state = 'waiting'"),
        ),
        Index(
            "ix_outbox_given_up",
            "channel",
            postgresql_where=text("state = 'given_up'"),
            sqlite_where=text("state = 'given_up'"),
        ),
        Index(
            "ix_outbox_token",
            "token",
            postgresql_where=text("token IS NOT NULL"),
            sqlite_where=text("token IS NOT NULL"),
        ),
        Index(
            "ix_outbox_sent",
            "channel",
            "ended_at",
            postgresql_where=text("state = 'sent'"),
            sqlite_where=text("state = 'sent'"),
        ),
    )


class User(Base):
    """A local account of the review app: see `db.worklist.accounts`. Reviews and the audit contain the same name."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    name: Mapped[str] = mapped_column(String(255), unique=True)
    role: Mapped[str] = mapped_column(String(16))
    password_hash: Mapped[str] = mapped_column(String(255))  # argon2id's encoded form, with salt and costs
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class UserSession(Base):
    """A browser session. The browser holds the token, the table its hash."""

    __tablename__ = "sessions"

    token_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    # None: the local admin, who signed in by the one-time link of `up`
    user_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("users.id"), index=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    seen_at: Mapped[datetime] = mapped_column(UtcDateTime)


class ApiToken(Base):
    """A token for scripts. It permits what both its own role and its user's role permit."""

    __tablename__ = "api_tokens"

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    token_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    user_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("users.id"), index=True)
    label: Mapped[str] = mapped_column(String(64))
    role: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class SignInFailure(Base):
    """The number of recent wrong passwords for one account, device or address: see `db.worklist.throttle`."""

    __tablename__ = "sign_in_failures"

    key: Mapped[str] = mapped_column(String(80), primary_key=True)
    failures: Mapped[int]
    last_at: Mapped[datetime] = mapped_column(UtcDateTime)


class Audit(Base):
    """Actions of users. A row is written once and outlives its account and its scan, hence no foreign keys."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    who: Mapped[str] = mapped_column(String(255))
    what: Mapped[str] = mapped_column(String(32))
    scan_id: Mapped[int | None] = mapped_column(BigInteger, index=True)
    detail: Mapped[str | None]


class Deployment(Base):
    """Facts about the whole deployment, one row each: see `db.deployment`."""

    __tablename__ = "deployment"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str]


class Heartbeat(Base):
    """The last report of a component: see `db.health.heartbeat_writer`. Times are by the database's clock."""

    __tablename__ = "heartbeats"

    component: Mapped[str] = mapped_column(String(255), primary_key=True)  # kind@machine:pid
    kind: Mapped[str] = mapped_column(String(32))
    machine: Mapped[str] = mapped_column(String(255))
    pid: Mapped[int]
    state: Mapped[str] = mapped_column(String(255))
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
    progress_at: Mapped[datetime] = mapped_column(UtcDateTime)  # its last progress
    beat_at: Mapped[datetime] = mapped_column(UtcDateTime)
    # {activity: {"idle_seconds": since its last progress, at the beat, "within_seconds": limit}}
    expectations: Mapped[dict[str, Any]] = mapped_column(JSON)
    done: Mapped[dict[str, Any]] = mapped_column(JSON)  # {what: count} since it started


class SourceHour(Base):
    """The images of one source in one hour. `db.health.source_silence` uses it to detect an unusual silence."""

    __tablename__ = "source_hours"

    source: Mapped[str] = mapped_column(String(63), primary_key=True)  # the inbox
    hour: Mapped[datetime] = mapped_column(UtcDateTime, primary_key=True)  # its start
    images: Mapped[int]
    first_at: Mapped[datetime] = mapped_column(UtcDateTime)
    last_at: Mapped[datetime] = mapped_column(UtcDateTime)
    longest_gap: Mapped[float]  # seconds between two images of this hour
