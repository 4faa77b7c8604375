"""Time the queries of readers and workers in PostgreSQL with five million scans, and check that indexes are used.

python tests/benchmarks/database_at_size.py [--quick] [--json]
"""

import hashlib
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np
from figures import Figure, at_most, run, tell
from many_scans import MODEL, generate
from servers import explain, servers
from sqlalchemy import Connection, text

from db.ledger import queries, transitions
from db.ledger.outcomes import Claim, Classified
from db.session import Database

SCANS, QUICK_SCANS = 5_000_000, 100_000
PAGE = 50  # rows
BATCH = 64  # scans of a claim
TIMES, QUICK_TIMES = 200, 20
P95_MS = 50
LEASE = timedelta(minutes=2)
BY = "worker@bench:1"

Work = Callable[[Connection], Any]


def measure(quick: bool) -> list[Figure]:
    total, times = (QUICK_SCANS, QUICK_TIMES) if quick else (SCANS, TIMES)
    with servers() as own:
        database = Database(own.database_url)
        generate(database, total)
        found = [*reading(database, times), *working(database, times), *plans(database), *all_judged(database, times)]
        database.close()
    return [Figure("scans in PostgreSQL", total), *found]


flagged = partial(queries.view_rows, view="flagged_cases", limit=PAGE)
unread = partial(queries.view_rows, view="flagged_cases", limit=PAGE, unread=True)
unscored = partial(queries.view_rows, view="unscored_cases", limit=PAGE)
claim = partial(transitions.claim, count=BATCH, by=BY, lease=LEASE)


def reading(database: Database, times: int) -> list[Figure]:
    """Time the queries of readers and of the status command."""
    counting = {
        "status: scans by state": queries.counts_by_state,
        "status: flagged without a verdict": partial(queries.count_view_rows, view="flagged_cases", unread=True),
        "status: unscored": partial(queries.count_view_rows, view="unscored_cases"),
        "status: oldest waiting": queries.oldest_waiting,
    }
    return [
        at_most(f"first {PAGE} flagged, p95", p95(database.read, flagged, times), "ms", P95_MS),
        at_most(f"worklist: first {PAGE} without a verdict, p95", p95(database.read, unread, times), "ms", P95_MS),
        Figure(f"first {PAGE} unscored, p95", p95(database.read, unscored, times), "ms"),
        *(
            Figure(f"{name}, p95", p95(database.read, work, max(times // 20, 3)), "ms")
            for name, work in counting.items()
        ),
    ]


def working(database: Database, times: int) -> list[Figure]:
    """Time the statements of a worker: claims, each finished before the next."""
    claiming, finishing = [], []
    for _ in range(times):
        held, ms = timed(database.write, claim)
        claiming.append(ms)
        outcomes = [outcome(scan.id) for scan in held.scans]
        finish = partial(transitions.record_outcomes, token=held.token, outcomes=outcomes, by=BY)
        finishing.append(timed(database.write, finish)[1])
    return [
        at_most(f"claim of {BATCH}, p95", np.percentile(claiming, 95), "ms", P95_MS),
        at_most(f"finish of {BATCH}, p95", np.percentile(finishing, 95), "ms", P95_MS),
    ]


def outcome(scan_id: int) -> Classified:
    sha256 = hashlib.sha256(b"bench %d" % scan_id).hexdigest()
    return Classified(scan_id, sha256, 0.25, False, 0.5, MODEL)


def plans(database: Database) -> list[Figure]:
    """Count sequential scans of the table `scans` in the plan of each query; there must be none."""

    def claim_and_finish(connection: Connection) -> None:
        held: Claim | None = claim(connection)
        assert held is not None
        transitions.record_outcomes(connection, held.token, [outcome(scan.id) for scan in held.scans], BY)

    works: dict[str, Work] = {
        "flagged": flagged,
        "worklist": unread,
        "unscored": unscored,
        "the count of unscored": partial(queries.count_view_rows, view="unscored_cases"),
        "claim and finish": claim_and_finish,
    }
    found = []
    for name, work in works.items():
        bad = [plan for plan in explain(database, work) if "Seq Scan on scans" in plan]
        for plan in bad:
            tell(f"{name} reads the whole table:\n{plan}")
        found.append(at_most(f"plans of {name}: sequential scans of the table", len(bad), "", 0))
    return found


def all_judged(database: Database, times: int) -> list[Figure]:
    """Time the worklist when every scan has a verdict: an empty result must not take longer."""
    database.write(
        lambda connection: connection.execute(
            text("UPDATE scans SET verdict = 'unsure' WHERE flagged AND verdict IS NULL")
        )
    )
    return [at_most("worklist, when every scan has a verdict, p95", p95(database.read, unread, times), "ms", P95_MS)]


def p95(execute: Callable[[Work], Any], work: Work, times: int) -> float:
    return float(np.percentile([timed(execute, work)[1] for _ in range(times)], 95))


def timed(execute: Callable[[Work], Any], work: Work) -> tuple[Any, float]:
    """Return the result of the work, and the milliseconds it took including its commit."""
    started = time.perf_counter()
    result = execute(work)
    return result, 1000 * (time.perf_counter() - started)


if __name__ == "__main__":
    run(__doc__, measure)
