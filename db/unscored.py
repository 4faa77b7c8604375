"""What nobody has read: rejected and failed scans, and those that wait beyond the cap. The view says which they are."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from sqlalchemy import Connection, text

PAGE: Final = 100  # lines
COUNTED: Final = 100_000  # scans; in an outage everything waits
_WHY: Final = "CASE WHEN state = 'rejected' THEN reason ELSE state END"


class Group(NamedTuple):
    """Scans that got no result for one reason. `why`: the reason of what was rejected, else the state."""

    why: str
    number: int


def groups(connection: Connection) -> Sequence[Group]:
    """The largest first; of more than COUNTED scans, so many of them are told apart."""
    some = f"SELECT {_WHY} AS why FROM unscored_cases LIMIT {COUNTED}"  # noqa: S608
    grouped = f"SELECT why, count(*) FROM ({some}) AS counted GROUP BY why ORDER BY count(*) DESC, why"  # noqa: S608
    return [Group(*row) for row in connection.execute(text(grouped))]


def listed(connection: Connection, why: str | None = None, before: int | None = None, limit: int = PAGE) -> list[int]:
    """Ids of a page, the newest first: of one reason where it is given, and older than `before`."""
    conditions = {"before": "scan_id < :before", "why": f"{_WHY} = :why"}
    given = {name: value for name, value in (("before", before), ("why", why)) if value is not None}
    where = f"WHERE {' AND '.join(conditions[name] for name in given)}" if given else ""
    statement = f"SELECT scan_id FROM unscored_cases {where} ORDER BY scan_id DESC LIMIT :limit"  # noqa: S608
    return list(connection.scalars(text(statement), given | {"limit": limit}))
