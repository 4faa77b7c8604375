"""Time each page of the review app's lists in PostgreSQL with a million scans, many of them without a verdict.

python tests/benchmarks/worklist.py [--quick] [--json]
"""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from figures import Figure, at_most, run, tell
from many_scans import generate
from servers import explain, servers
from sqlalchemy import Connection

from db.session import Database
from db.states import State, Verdict
from db.worklist import changes, search, statistics, worklist
from db.worklist.worklist import Cursor, Filters, Listing

SCANS, QUICK_SCANS = 1_000_000, 50_000
UNREAD_DAYS = 500
CAP = timedelta(hours=4)
PAGE = 50
READER = "reader"
FAR, QUICK_FAR = 1000, 20  # pages
TIMES, QUICK_TIMES = 40, 5
BAR_MS = 100

Work = Callable[[Connection], Any]
TO_READ, FLAGGED, ALL = (Filters(listing) for listing in Listing)


def measure(quick: bool) -> list[Figure]:
    total, times, far = (QUICK_SCANS, QUICK_TIMES, QUICK_FAR) if quick else (SCANS, TIMES, FAR)
    with servers() as own:
        database = Database(own.database_url)
        generate(database, total, UNREAD_DAYS)
        unread = database.read(lambda c: worklist.count_scans(c, TO_READ, READER, at_most=total)).number
        found = [*pages(database, times, far), *others(database, times)]
        database.close()
    return [Figure("scans in PostgreSQL", total), Figure("of them waiting for a reader", unread), *found]


def pages(database: Database, times: int, far: int) -> list[Figure]:
    """Time pages of each list. The bar is for a whole page: its lines, and the count above them."""
    recent = datetime.now(UTC) - timedelta(days=30)
    lists = {
        "worklist": TO_READ,
        "worklist, without a cap": TO_READ,
        "worklist of one source": Filters(source="ward"),
        "worklist of a month": Filters(since=recent),
        "worklist, probability 0.8 to 0.82": Filters(at_least=0.8, at_most=0.82),
        "flagged": FLAGGED,
        "all scans": ALL,
        "rejected": replace(ALL, state=State.REJECTED),
        "judged no_pneumonia": replace(ALL, verdict=Verdict.NO_PNEUMONIA),
        "all scans of one source in a month": replace(ALL, source="clinic", since=recent),
        "all scans, probability 0.5 to 0.51": replace(ALL, at_least=0.5, at_most=0.51),
    }
    found = []
    for name, filters in lists.items():
        cap = timedelta(0) if "without" in name else CAP
        found.append(timed(database, f"{name}, first page", whole(filters, cap, None), times))
    for name in ("worklist", "worklist, without a cap", "worklist of one source", "flagged", "all scans"):
        cap = timedelta(0) if "without" in name else CAP
        after, walked = walk(database, lists[name], cap, far)
        found.append(timed(database, f"{name}, page {walked:,}", whole(lists[name], cap, after), times))
    return found


def whole(filters: Filters, cap: timedelta, after: Cursor | None) -> Work:
    return lambda c: (
        worklist.fetch_page(c, filters, cap, READER, after, PAGE),
        worklist.count_scans(c, filters, READER),
    )


def walk(database: Database, filters: Filters, cap: timedelta, pages: int) -> tuple[Cursor | None, int]:
    """Follow the cursor of each page, as readers and scripts do, to the last of so many pages.

    Return the cursor before that page, and its number.
    """
    after: Cursor | None = None
    for number in range(1, pages):
        following = database.read(
            lambda c, at=after: worklist.fetch_page(c, filters, cap, READER, at, PAGE)
        ).next_cursor
        if following is None:
            return after, number
        after = following
    return after, pages


def others(database: Database, times: int) -> list[Figure]:
    moment = database.read(changes.current_marker)
    works: dict[str, Work] = {
        "the next scan": lambda c: worklist.next_scan(c, TO_READ, CAP, [1], READER),
        "count of scans beyond the cap": lambda c: worklist.count_late(c, CAP),
        "changes since a moment ago": lambda c: (
            changes.current_marker(c),
            changes.changes_since(c, replace(moment, event=moment.event - 100)),
        ),
        "search by file name, newest 250,000 scans": lambda c: search.search_scans(c, "person4711_"),
        "overview: images of 30 days by day": lambda c: statistics.counts_by_day(c, 30),
        "overview: images of a day by hour": statistics.finished_by_hour,
        "overview: agreement over 90 days": lambda c: statistics.agreement(c, 90),
    }
    return [
        timed(database, name, work, max(times // 4, 3), bar=name == "the next scan") for name, work in works.items()
    ]


def timed(database: Database, name: str, work: Work, times: int, bar: bool = True) -> Figure:
    for plan in explain(database, work):
        if "Seq Scan on scans" in plan:
            tell(f"{name} reads the whole table:\n{plan}")
    spent = []
    for _ in range(times):
        started = time.perf_counter()
        database.read(work)
        spent.append(1000 * (time.perf_counter() - started))
    p95 = float(np.percentile(spent, 95))
    return at_most(f"{name}, p95", p95, "ms", BAR_MS) if bar else Figure(f"{name}, p95", p95, "ms")


if __name__ == "__main__":
    run(__doc__, measure)
