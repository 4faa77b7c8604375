"""The link that `up` prints: whoever started it signs in as local admin, once, within minutes."""

import hmac
import secrets
import time
from collections.abc import Callable
from threading import Lock
from typing import Final

LIFETIME_MINUTES: Final = 10
LINK_KEY_BYTES: Final = 32


class OneTimeLink:
    """Kept in memory alone: who cannot read the terminal of `up` has no way to it."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = Lock()
        self._token: str | None = secrets.token_urlsafe(LINK_KEY_BYTES)
        self._until = monotonic() + LIFETIME_MINUTES * 60

    def path(self) -> str:
        """As it is printed. Behind `?`, where no log of ours looks."""
        return f"/sign-in/once?key={self._token}"

    def redeem(self, token: str) -> bool:
        """Whether this is it; true once."""
        with self._lock:
            if self._token is None or not hmac.compare_digest(self._token.encode(), token.encode()):
                return False
            self._token = None
            return self._monotonic() < self._until
