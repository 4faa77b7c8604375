"""A ledger to test with: scans without files, and short ways to ask for their states."""

import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, func, select, text, update

from db.ledger import registration, transitions
from db.ledger.file_version import FileVersion
from db.ledger.outcomes import Claim, Classified, Deferred, Outcome, Rejected
from db.ledger.registration import RegistrationResult
from db.models import Content, Prediction, Scan, ScanEvent
from db.registry import model_registry
from db.session import Database
from db.states import Reason
from pneumowatch.model_folder import ModelFolder
from support.waiting import eventually

LEASE: Final = timedelta(seconds=60)
MODEL: Final = "model-1"
BY: Final = "test"
EVERY: Final = Scan.id > 0
UNANNOUNCED: Final = Scan.announced_at.is_(None)


def file_version(name: str = "a.png", size: int = 100, mtime_ns: int = 1, **others: Any) -> FileVersion:
    return FileVersion(**{"inbox": "inbox", "path": name.encode(), "size": size, "mtime_ns": mtime_ns, **others})


def classified(scan_id: int, sha256: str | None = None, probability: float = 0.9, flagged: bool = True) -> Classified:
    return Classified(scan_id, sha256 or f"{scan_id:064x}", probability, flagged, 0.5, MODEL)


def rejected(scan_id: int, reason: Reason = Reason.UNREADABLE) -> Rejected:
    return Rejected(scan_id, reason, "A sentence.")


def deferred(scan_id: int, seconds: float = 0, size: int | None = None, mtime_ns: int | None = None) -> Deferred:
    return Deferred(scan_id, transitions.utc_now() + timedelta(seconds=seconds), "later", size, mtime_ns)


def model_folder(version: str = MODEL, sha256: str = "0" * 64) -> ModelFolder:
    """Make a model folder without a network."""
    card = {"version": version, "sha256": sha256, "input": {"side": 64}, "threshold": {"value": 0.5}}
    return ModelFolder(Path("nowhere"), card)


class LedgerDriver:
    """The ledger's transitions, each in a transaction of its own, and queries of their results."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def register_model(self) -> None:
        self.database.write(lambda c: model_registry.register_model(c, model_folder(), b"an archive", BY))

    def register(self, *files: FileVersion) -> RegistrationResult:
        return self.database.write(lambda c: registration.register_files(c, files, BY))

    def unregistered(self, *files: FileVersion) -> list[FileVersion]:
        return self.database.read(lambda c: registration.unregistered_files(c, files))

    def add(self, *files: FileVersion) -> list[int]:
        """Register files one after the other; return the ids of their scans, which are to be announced."""
        ids = [self.register(file).to_announce for file in files]
        assert all(len(one) == 1 for one in ids)
        return [id_ for (id_,) in ids]

    def claim(
        self,
        count: int = 100,
        by: str = "worker",
        lease: timedelta = LEASE,
        overdue_after: timedelta | None = None,
        swept: bool = True,
    ) -> Claim | None:
        """Claim scans. `swept`: what is due is announced before, as the sweep does."""
        if swept:
            self.mark_announced()
        return self.database.write(lambda c: transitions.claim(c, count, by, lease, overdue_after))

    def claimed(self, count: int = 100) -> Claim:
        claim = self.claim(count)
        assert claim is not None
        return claim

    def renew(self, claim: Claim, exclusive: bool = False, lease: timedelta = LEASE) -> None:
        self.database.write(lambda c: transitions.renew_lease(c, claim, lease, exclusive))

    def finish(self, claim: Claim | str, *outcomes: Outcome) -> None:
        token = claim if isinstance(claim, str) else claim.token
        self.database.write(lambda c: transitions.record_outcomes(c, token, outcomes, "worker"))

    def expire(self, claim: Claim, max_attempts: int = 3) -> int:
        pairs = [(scan.id, claim.token) for scan in claim.scans]
        return self.database.write(lambda c: transitions.expire_claims(c, pairs, max_attempts, "sweeper"))

    def requeue(self, where: transitions.Condition = EVERY) -> list[int]:
        return self.database.write(lambda c: transitions.requeue(c, where, "admin"))

    def mark_announced(self, where: transitions.Condition = UNANNOUNCED, limit: int = 100) -> list[int]:
        return self.database.write(lambda c: transitions.mark_announced(c, where, limit))

    def mark_unannounced(self, *ids: int) -> None:
        self.database.write(lambda c: transitions.mark_unannounced(c, ids))

    def set(self, scan_id: int, **values: Any) -> None:
        """Set columns directly, as no transition does: for times that have passed."""
        self.database.write(lambda c: c.execute(update(Scan).where(Scan.id == scan_id).values(**values)))

    def row(self, scan_id: int) -> dict[str, Any]:
        return dict(self._query(select(Scan.__table__).where(Scan.id == scan_id))[0])

    def state(self, scan_id: int) -> str:
        return self.row(scan_id)["state"]

    def states(self) -> dict[int, str]:
        return {row["id"]: row["state"] for row in self._query(select(Scan.id, Scan.state).order_by(Scan.id))}

    def moves(self, scan_id: int) -> list[tuple[str | None, str]]:
        return [(event["from_state"], event["to_state"]) for event in self.events(scan_id)]

    def events(self, scan_id: int) -> Sequence[Any]:
        return self._query(select(ScanEvent.__table__).where(ScanEvent.scan_id == scan_id).order_by(ScanEvent.id))

    def event_count(self) -> int:
        return self._query(select(func.count().label("n")).select_from(ScanEvent))[0]["n"]

    def predictions(self, scan_id: int) -> Sequence[Any]:
        return self._query(select(Prediction.__table__).where(Prediction.scan_id == scan_id))

    def owners(self) -> dict[str, int]:
        return {row["sha256"]: row["scan_id"] for row in self._query(select(Content.sha256, Content.scan_id))}

    def classify(self, *files: FileVersion, **outcome: Any) -> list[int]:
        """Register files and record them as classified."""
        ids = self.add(*files)
        self.finish(self.claimed(), *(classified(id_, **outcome) for id_ in ids))
        return ids

    def reject(self, file: FileVersion, reason: Reason = Reason.UNREADABLE) -> int:
        """Register a file and record it as rejected."""
        (scan_id,) = self.add(file)
        self.finish(self.claimed(), rejected(scan_id, reason))
        return scan_id

    def _query(self, statement: Any) -> Sequence[Any]:
        return self.database.read(lambda c: c.execute(statement).mappings().all())


def wait_until_another_waits(connection: Connection) -> None:
    """Return once another transaction waits for the locks of this one."""
    if connection.dialect.name == "sqlite":
        # nobody is told who waits for its one lock; whoever came for it after this would find the same
        time.sleep(0.3)  # long enough for a thread to come and wait
        return
    # pg_locks is of this moment; pg_stat_activity would say again what it said first in this transaction
    blocked = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))")
    eventually(lambda: connection.scalar(blocked), message="nobody waits for this transaction")


def run_concurrently(*works: Callable[[], Any]) -> list[Any]:
    """Run works at the same moment, each in its own thread; return their results, or raise what one raised."""
    barrier = threading.Barrier(len(works))
    results: list[Any] = [None] * len(works)
    faults: list[BaseException] = []

    def run(index: int, work: Callable[[], Any]) -> None:
        barrier.wait()
        try:
            results[index] = work()
        except BaseException as fault:  # noqa: BLE001 - handed to the test
            faults.append(fault)

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    if faults:
        raise faults[0]
    return results
