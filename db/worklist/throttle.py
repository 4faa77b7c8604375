"""Throttle sign-in after wrong passwords: each further try waits twice as long, up to some minutes.

Failures are counted for the account and for the address that they come from. A browser in which somebody has signed in
to the account before is counted by itself alone: whoever guesses elsewhere cannot lock its reader out. Refused tries
are not counted, so that a wait ends however many are made meanwhile. An hour without failures resets the count.
"""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, delete, select, update

from db.dialect import dialect_name, insert_or_ignore
from db.models import SignInFailure

FAILURES: Final[Any] = SignInFailure.__table__
MAX_WAIT: Final = timedelta(minutes=5)  # permits at most a dozen guesses an hour
RESET_AFTER: Final = timedelta(hours=1)


class ThrottleKey(NamedTuple):
    """A key for which failures are counted, and how many failures are free of a wait."""

    key: str
    free_failures: int


def account_key(user: str) -> ThrottleKey:
    return ThrottleKey(f"account:{_digest(user)}", 5)


def device_key(nonce: str) -> ThrottleKey:
    return ThrottleKey(f"device:{_digest(nonce)}", 5)


def address_key(host: str) -> ThrottleKey:
    """Return the key of an address. It allows more failures: many readers may share one address."""
    return ThrottleKey(f"address:{_digest(host)}", 30)


def admit(connection: Connection, counted: Sequence[ThrottleKey]) -> timedelta:
    """Return how long the next try has to wait.

    A try that need not wait is counted as a failure at once, until `record_success`. So of a thousand tries at the same
    moment, only the free ones are admitted.
    """
    at = datetime.now(UTC)
    fresh = [{"key": one.key, "failures": 0, "last_at": at} for one in sorted(counted)]
    connection.execute(insert_or_ignore(dialect_name(connection), FAILURES), fresh)
    keys = [one.key for one in counted]
    locked = select(FAILURES).where(FAILURES.c.key.in_(keys)).order_by(FAILURES.c.key).with_for_update()
    rows = {row.key: row for row in connection.execute(locked)}
    wait = max(_wait(rows[one.key], one.free_failures, at) for one in counted)
    if wait <= timedelta():
        for row in rows.values():
            failures = 1 if at - row.last_at > RESET_AFTER else row.failures + 1
            again = update(FAILURES).where(FAILURES.c.key == row.key)
            connection.execute(again.values(failures=failures, last_at=at))
    return max(wait, timedelta())


def record_success(connection: Connection, counted: Sequence[ThrottleKey]) -> None:
    """Record that the admitted try was right.

    The count of its address drops by one only, since an attacker may have an account.
    """
    for one in sorted(counted):
        if one.key.startswith("address:"):
            more = (FAILURES.c.key == one.key, FAILURES.c.failures > 0)
            connection.execute(update(FAILURES).where(*more).values(failures=FAILURES.c.failures - 1))
        else:
            connection.execute(delete(FAILURES).where(FAILURES.c.key == one.key))
    connection.execute(delete(FAILURES).where(FAILURES.c.last_at < datetime.now(UTC) - RESET_AFTER))


def _wait(row: Any, free_failures: int, at: datetime) -> timedelta:
    since = at - row.last_at
    if row.failures < free_failures or since > RESET_AFTER:
        return timedelta()
    return min(timedelta(seconds=2.0 ** min(row.failures - free_failures, 30)), MAX_WAIT) - since


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
