"""What nobody has read: rejected and failed scans, and those that wait beyond the cap. The view says which they are."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from sqlalchemy import Connection, text

PAGE_SIZE: Final = 100  # lines
COUNT_LIMIT: Final = 100_000  # scans; in an outage everything waits
_REASON: Final = "CASE WHEN state = 'rejected' THEN reason ELSE state END"


class ReasonCount(NamedTuple):
    """Scans that got no result for one reason. `why`: the reason of what was rejected, else the state."""

    why: str
    number: int


def count_up_to(connection: Connection, limit: int) -> int:
    """Count them; `limit` + 1 where there are more than `limit`."""
    some = text("SELECT count(*) FROM (SELECT 1 FROM unscored_cases LIMIT :limit) AS counted")
    return connection.scalar(some, {"limit": limit + 1}) or 0


def counts_by_reason(connection: Connection) -> Sequence[ReasonCount]:
    """The largest first; of more than COUNTED scans, so many of them are told apart."""
    some = f"SELECT {_REASON} AS why FROM unscored_cases LIMIT {COUNT_LIMIT}"  # noqa: S608
    grouped = f"SELECT why, count(*) FROM ({some}) AS counted GROUP BY why ORDER BY count(*) DESC, why"  # noqa: S608
    return [ReasonCount(*row) for row in connection.execute(text(grouped))]


def list_ids(
    connection: Connection, why: str | None = None, before: int | None = None, limit: int = PAGE_SIZE
) -> list[int]:
    """Ids of a page, the newest first: of one reason where it is given, and older than `before`."""
    conditions = {"before": "scan_id < :before", "why": f"{_REASON} = :why"}
    given = {name: value for name, value in (("before", before), ("why", why)) if value is not None}
    where = f"WHERE {' AND '.join(conditions[name] for name in given)}" if given else ""
    statement = f"SELECT scan_id FROM unscored_cases {where} ORDER BY scan_id DESC LIMIT :limit"  # noqa: S608
    return list(connection.scalars(text(statement), given | {"limit": limit}))
