"""Find the classified scan that owns a content. A unique key resolves concurrent duplicates."""

from collections.abc import Sequence

from sqlalchemy import Connection, select, update

from db.dialect import dialect_name, rows_parameter
from db.ledger import statements
from db.ledger.outcomes import Classified
from db.models import Content


def content_owners(connection: Connection, outcomes: Sequence[Classified]) -> dict[str, int]:
    """Return {SHA-256 of an image file: the scan that owns its content}. Unowned content goes to these scans first.

    A scan with new bytes also claims their SOP instance with its pixels. If another scan owns that instance, it gets
    the bytes as well, so that each further copy of either file leads to it.
    """
    owned = _claim_keys(connection, {(outcome.sha256, outcome.scan_id) for outcome in outcomes})
    claims = {o.sha256: key for o in outcomes if owned[o.sha256] == o.scan_id and (key := o.instance_key)}
    instances = _claim_keys(connection, {(key, owned[sha256]) for sha256, key in claims.items()})
    for sha256, key in claims.items():
        if instances[key] != owned[sha256]:
            owned[sha256] = instances[key]
            connection.execute(update(Content).where(Content.sha256 == sha256).values(scan_id=instances[key]))
    return owned


def _claim_keys(connection: Connection, keys: set[tuple[str, int]]) -> dict[str, int]:
    """Claim keys, given as (key, scan) pairs, and return {key: the scan that owns it}.

    The keys are claimed in their order, and all bytes of a batch before all its instances, so that two workers never
    deadlock.
    """
    if not keys:
        return {}
    parameter_rows = rows_parameter([{"sha256": key, "scan_id": scan_id} for key, scan_id in sorted(keys)])
    found = {
        row.sha256: row.scan_id
        for row in connection.execute(statements.claim_contents(dialect_name(connection)), parameter_rows)
    }
    others = {key for key, _ in keys} - set(found)
    if others:
        theirs = connection.execute(select(Content.sha256, Content.scan_id).where(Content.sha256.in_(others)))
        found.update({row.sha256: row.scan_id for row in theirs})
    return found
