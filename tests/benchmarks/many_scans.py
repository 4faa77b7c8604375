"""Generate a ledger of two years inside PostgreSQL: scans in all states, with contents, predictions and events."""

from figures import tell
from sqlalchemy import Connection, text

from db.session import Database

CHUNK = 250_000  # scans in one transaction
QUEUED = 20_000  # the newest
RUNNING = 200
HOUR_SHARE = 0.15  # seconds between queued scans, so that none has waited for an hour yet
MODEL = "bench-model"

# i counts scans, :total of them; h and u are fixed pseudo-random numbers, below 10,000 and below 1.
SCANS = f"""
INSERT INTO scans (id, inbox, path_sha256, path_bytes, path, size, mtime_ns, state, reason, detail, priority,
    received_at, changed_at, not_before, announced_at, finished_at, claim_token, claimed_by, leased_until, lost_leases,
    lost_leases_exclusive, exclusive, sha256, probability, flagged, model_version, threshold, worklist_rank,
    hidden_until_verdict, sampled_share, study_uid, duplicate_of, verdict, reviewer, reviewed_at)
SELECT i, CASE WHEN h % 2 = 0 THEN 'ward' ELSE 'clinic' END, sha256(int8send(i)), path::bytea, path, 200000 + h, i,
    state, CASE state WHEN 'rejected' THEN 'unreadable' END,
    CASE WHEN state IN ('rejected', 'failed') THEN 'The image is damaged or incomplete; send the image again.' END,
    CASE WHEN h < 100 THEN 1 ELSE 5 END, at, at, at, at, CASE WHEN done THEN at + interval '3 seconds' END,
    CASE state WHEN 'running' THEN 'token' END, 'worker@bench:1', NULL, 0, 0, false,
    CASE WHEN done AND state <> 'failed' THEN encode(sha256(int8send(i)), 'hex') END,
    CASE state WHEN 'classified' THEN p END, CASE state WHEN 'classified' THEN p >= 0.5 END,
    CASE state WHEN 'classified' THEN '{MODEL}' END, CASE state WHEN 'classified' THEN 0.5 END,
    CASE WHEN state = 'classified' AND (p >= 0.5 OR sampled) THEN greatest(p, 1 - u / 2) END,
    state = 'classified' AND sampled, CASE WHEN state = 'classified' AND p < 0.5 AND sampled THEN 0.05 END,
    CASE WHEN i % 4 < 2 THEN '1.2.826.' || i / 4 END,
    CASE state WHEN 'duplicate' THEN i - 1 END,
    CASE WHEN judged THEN CASE WHEN p >= 0.3 THEN 'pneumonia' ELSE 'no_pneumonia' END END,
    CASE WHEN judged THEN 'reader' END, CASE WHEN judged THEN at END
FROM (SELECT *, state NOT IN ('queued', 'running') AS done, u * u * u AS p,
    state = 'classified' AND (u * u * u >= 0.5 OR h < 500) AND at < now() - :unread_days * interval '1 day' AS judged,
    h < 500 AS sampled
  FROM (SELECT *, CASE WHEN i > :total - {QUEUED} THEN 'queued' WHEN i > :total - {QUEUED + RUNNING} THEN 'running'
      WHEN h < 9700 THEN 'classified' WHEN h < 9850 THEN 'rejected' WHEN h < 9999 THEN 'duplicate' ELSE 'failed' END
      AS state
    FROM (SELECT i, (hashint8(i) & 2147483647) % 10000 AS h, (hashint8(i + 1) & 2147483647) / 2147483648.0 AS u,
        now() - CASE WHEN i > :total - {QUEUED + RUNNING} THEN (:total - i) * interval '{HOUR_SHARE} seconds'
          ELSE interval '1 hour' + (:total - {QUEUED + RUNNING} - i) * interval '2 years' / :total END AS at,
        'year/' || i / 1000 || '/person' || i || '_image.jpeg' AS path
      FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS i) AS numbers) AS states) AS drawn
"""
CONTENTS = "INSERT INTO contents (sha256, scan_id) SELECT sha256, id FROM scans WHERE state = 'classified' AND {chunk}"
PREDICTIONS = """
INSERT INTO predictions (scan_id, model_version, probability, threshold, flagged, current, made_at)
SELECT id, model_version, probability, threshold, flagged, true, finished_at FROM scans
WHERE state = 'classified' AND {chunk}
"""
EVENTS = """
INSERT INTO scan_events (scan_id, from_state, to_state, at, by)
SELECT id, step.before, step.after, received_at, 'worker@bench:1' FROM scans
CROSS JOIN LATERAL (VALUES (1, NULL, 'queued'), (2, 'queued', 'running'), (3, 'running', state))
    AS step (number, before, after)
WHERE {chunk} AND step.number <= CASE state WHEN 'queued' THEN 1 WHEN 'running' THEN 2 ELSE 3 END
"""


def generate(database: Database, total: int, unread_days: int = 7) -> None:
    """Fill an empty, migrated database, and update its statistics.

    Args:
        unread_days: how many days readers are behind.
    """
    database.write(
        lambda connection: connection.execute(
            text("INSERT INTO models VALUES (:model, '', '{}', now(), true)"), {"model": MODEL}
        )
    )
    for first in range(1, total + 1, CHUNK):
        last = min(first + CHUNK - 1, total)
        given = {"first": first, "last": last, "total": total, "unread_days": unread_days}
        database.write(lambda connection, given=given: _generate(connection, given))
        tell(f"{last:,} of {total:,} scans")
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"SELECT setval(pg_get_serial_sequence('scans', 'id'), {total})"))
        connection.execute(text("VACUUM ANALYZE"))


def _generate(connection: Connection, given: dict[str, int]) -> None:
    connection.execute(text("SET LOCAL session_replication_role = replica"))  # no foreign key checks: they hold
    connection.execute(text(SCANS), given)
    chunk = f"id BETWEEN {given['first']} AND {given['last']}"
    for statement in (CONTENTS, PREDICTIONS, EVENTS):
        connection.execute(text(statement.format(chunk=chunk)))
