"""The one-time link that `up` prints: it signs in as local admin, once, within LIFETIME_MINUTES."""

import hmac
import secrets
import time
from collections.abc import Callable
from threading import Lock
from typing import Final

LIFETIME_MINUTES: Final = 10
LINK_KEY_BYTES: Final = 32


class OneTimeLink:
    """One one-time link. It is kept in memory only, so that only those who can read the terminal of `up` can use it."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = Lock()
        self._token: str | None = secrets.token_urlsafe(LINK_KEY_BYTES)
        self._until = monotonic() + LIFETIME_MINUTES * 60

    def path(self) -> str:
        """Return the link's path. The token is in the query string, which is never logged."""
        return f"/sign-in/once?key={self._token}"

    def redeem(self, token: str) -> bool:
        """Tell whether this is the token of the link and it has not expired. Returns true at most once."""
        with self._lock:
            if self._token is None or not hmac.compare_digest(self._token.encode(), token.encode()):
                return False
            self._token = None
            return self._monotonic() < self._until
