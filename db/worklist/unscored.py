"""Scans without a result: rejected, failed, or waiting beyond the cap, as the view `unscored_cases` lists them."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from sqlalchemy import Connection, text

PAGE_SIZE: Final = 100  # rows
COUNT_LIMIT: Final = 100_000  # scans counted at most; in an outage everything waits
_REASON: Final = "CASE WHEN state = 'rejected' THEN reason ELSE state END"


class ReasonCount(NamedTuple):
    """The number of scans without a result for one reason.

    `why`: the reason of a rejected scan, otherwise the state.
    """

    why: str
    number: int


def count_up_to(connection: Connection, limit: int) -> int:
    """Count the scans, up to `limit` + 1."""
    some = text("SELECT count(*) FROM (SELECT 1 FROM unscored_cases LIMIT :limit) AS counted")
    return connection.scalar(some, {"limit": limit + 1}) or 0


def counts_by_reason(connection: Connection) -> Sequence[ReasonCount]:
    """Count the scans by reason, the largest count first; of at most COUNT_LIMIT scans."""
    some = f"SELECT {_REASON} AS why FROM unscored_cases LIMIT {COUNT_LIMIT}"  # noqa: S608
    grouped = f"SELECT why, count(*) FROM ({some}) AS counted GROUP BY why ORDER BY count(*) DESC, why"  # noqa: S608
    return [ReasonCount(*row) for row in connection.execute(text(grouped))]


def list_ids(
    connection: Connection, why: str | None = None, before: int | None = None, limit: int = PAGE_SIZE
) -> list[int]:
    """Return the ids of a page, the newest first: of one reason if given, and older than `before`."""
    conditions = {"before": "scan_id < :before", "why": f"{_REASON} = :why"}
    given = {name: value for name, value in (("before", before), ("why", why)) if value is not None}
    where = f"WHERE {' AND '.join(conditions[name] for name in given)}" if given else ""
    statement = f"SELECT scan_id FROM unscored_cases {where} ORDER BY scan_id DESC LIMIT :limit"  # noqa: S608
    return list(connection.scalars(text(statement), given | {"limit": limit}))
