"""The sweep: announce scans that the queue has lost, and take back those of dead workers. It may run twice at once."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, or_, select

from db.ledger import transitions
from db.ledger.statements import in_state
from db.models import Scan
from db.session import Database
from db.states import State
from pneumowatch.component import Component
from pneumowatch.errors import BrokerUnavailable
from pneumowatch.logs import get_logger

T = TypeVar("T")
log = get_logger("sweep")

STUCK_SECONDS: Final = 120.0  # a sweep that takes longer is stuck
ANNOUNCE_LIMIT: Final = 2000  # scans per transaction


class Sweeper:
    """Announces queued scans that are unannounced, and takes back scans whose claim has not changed for a lease.

    Args:
        announce: announces scans to the workers; raises BrokerUnavailable.
        outstanding: returns how many messages the broker holds, waiting or unacknowledged; raises BrokerUnavailable.
        lease_seconds: a claim seen unchanged for this long is void. The sweeper's own monotonic clock decides, not the
            times in the rows: clocks of machines differ, and may be set.
    """

    def __init__(
        self,
        database: Database,
        announce: Callable[[Sequence[int]], None],
        outstanding: Callable[[], int],
        lease_seconds: float,
        max_attempts: int,
        by: str,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._announce = announce
        self._outstanding = outstanding
        self._lease = lease_seconds
        self._max_attempts = max_attempts
        self._by = by
        self._monotonic = monotonic
        self._database_seconds = 0.0  # spent waiting for the database
        self._claims: dict[tuple[int, str, str], float] = {}  # claim -> when it was first seen so
        self._last_lost_check = monotonic()

    def run(self, stop: threading.Event, interval: float, component: Component | None = None) -> None:
        """Sweep every `interval` seconds until `stop` is set, and report progress to `component`."""
        component = component or Component("schedule")
        while True:
            component.expect_within("the sweep", STUCK_SECONDS + interval)
            self.sweep()
            component.record_progress(sweeps=1)
            if stop.wait(interval):
                return

    def sweep(self) -> None:
        self._expire_stale_claims()
        try:
            self._announce_forgotten()
        except BrokerUnavailable:
            log.warning("broker does not answer; scans wait in the database and are announced later")

    def _expire_stale_claims(self) -> None:
        with self._timing_database():
            running = self._database.read(_running)
        seen = {(row.id, row.claim_token, str(row.leased_until)) for row in running}
        moment = self._monotonic() - self._database_seconds
        self._claims = {claim: self._claims.get(claim, moment) for claim in seen}
        stale = [(id_, token) for (id_, token, _), since in self._claims.items() if moment - since >= self._lease]
        if stale:
            moved = self._write(lambda c: transitions.expire_claims(c, stale, self._max_attempts, self._by))
            if moved:  # otherwise another sweeper was first
                log.warning("took back scans of a worker that no longer renews its lease", count=moved)

    def _announce_forgotten(self) -> None:
        self._announce_all(Scan.announced_at.is_(None))
        if self._monotonic() - self._last_lost_check < self._lease / 4:
            return
        self._last_lost_check = self._monotonic()
        # a long queue is not a lost one: announced scans can only be lost if the broker holds no message
        if self._outstanding() == 0:
            at, lease = transitions.utc_now(), timedelta(seconds=self._lease)
            # a time in the future was written before a clock was set back, or by a clock that is ahead
            self._announce_all(or_(Scan.announced_at < at - lease, Scan.announced_at > at + lease))

    def _announce_all(self, where: transitions.Condition) -> None:
        while ids := self._write(lambda c: transitions.mark_announced(c, where, ANNOUNCE_LIMIT)):
            try:
                self._announce(ids)
            except BrokerUnavailable:
                self._write(partial(transitions.mark_unannounced, ids=ids))
                raise

    def _write(self, work: Callable[[Connection], T]) -> T:
        with self._timing_database():
            return self._database.write(work)

    @contextmanager
    def _timing_database(self) -> Iterator[None]:
        """Measure the time spent in the database.

        It does not age claims: no worker can renew its lease in an outage.
        """
        started = self._monotonic()
        try:
            yield
        finally:
            self._database_seconds += self._monotonic() - started


def _running(connection: Connection) -> Sequence[Any]:
    return connection.execute(select(Scan.id, Scan.claim_token, Scan.leased_until).where(in_state(State.RUNNING))).all()
