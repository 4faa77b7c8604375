"""Count the images of each source by the hour, as they are registered; `db.health.source_silence` reads the counts."""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, delete, select, tuple_

from db.dialect import upsert_rows
from db.models import SourceHour

SOURCE_HOURS: Final[Any] = SourceHour.__table__
WEEKS: Final = 4  # of history that is compared
SILENCE_HISTORY: Final = timedelta(weeks=WEEKS + 2)


def record_arrivals(connection: Connection, sources: Iterable[str], at: datetime) -> None:
    """Count images that have arrived at this moment; `sources` names the source of each."""
    images = Counter(sources)
    hour = at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    keys = [(source, hour) for source in sorted(images)]  # in one order, so that two watchers never deadlock
    same_hour = tuple_(SOURCE_HOURS.c.source, SOURCE_HOURS.c.hour).in_(keys)
    existing = {row.source: row for row in connection.execute(select(SOURCE_HOURS).where(same_hour).with_for_update())}
    if keys:
        upsert_rows(
            connection,
            SOURCE_HOURS,
            [_updated_hour(source, hour, images[source], at, existing.get(source)) for source, _ in keys],
        )
    if new_sources := [source for source in images if source not in existing]:
        connection.execute(
            delete(SOURCE_HOURS).where(
                SOURCE_HOURS.c.source.in_(new_sources), SOURCE_HOURS.c.hour < hour - SILENCE_HISTORY
            )
        )


def _updated_hour(source: str, hour: datetime, images: int, at: datetime, existing: Any) -> dict[str, Any]:
    first, last, longest = (existing.first_at, existing.last_at, existing.longest_gap) if existing else (at, at, 0.0)
    return {
        "source": source,
        "hour": hour,
        "images": images + (existing.images if existing else 0),
        "first_at": min(first, at),
        "last_at": max(last, at),
        "longest_gap": max(longest, (at - last).total_seconds()),
    }
