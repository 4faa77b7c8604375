"""Passwords: argon2id, with what OWASP's Password Storage Cheat Sheet asks for at least (19 MiB, two passes)."""

from threading import BoundedSemaphore
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from pneumowatch.errors import AccountRefused

SHORTEST: Final = 12  # characters
LONGEST: Final = 256
AT_ONCE: Final = 2  # so that a flood of tries takes neither the memory nor the cores of a worker beside it

_hasher: Final = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_turn: Final = BoundedSemaphore(AT_ONCE)
# of no password: an unknown user's try takes as long as any other
_NOBODYS: Final = "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5IGhhcyB0aGlzIQ$wRlIzuGKjCXSNAN0lGLTEzi1hc2xAKRyPrHOGQrKxk4"


def hashed(password: str) -> str:
    """Raises AccountRefused where it is too short or too long."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise AccountRefused(f"A password has {SHORTEST} to {LONGEST} characters; a sentence makes a good one.")
    with _turn:
        return _hasher.hash(password)


def agrees(password: str, known: str | None) -> bool:
    """Whether it is the password of this hash; None, where there is no such user, takes as long and never is."""
    if len(password) > LONGEST:
        return False
    with _turn:
        try:
            return _hasher.verify(known or _NOBODYS, password) and known is not None
        except (VerificationError, InvalidHashError):
            return False


def outdated(known: str) -> bool:
    """Whether it was made at other costs than today's."""
    return _hasher.check_needs_rehash(known)
