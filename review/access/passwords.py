"""Passwords: argon2id, with what OWASP's Password Storage Cheat Sheet asks for at least (19 MiB, two passes)."""

from threading import BoundedSemaphore
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from pneumowatch.errors import AccountRefused

MIN_LENGTH: Final = 12  # characters
MAX_LENGTH: Final = 256
MAX_CONCURRENT_HASHES: Final = (
    2  # so that a flood of tries takes neither the memory nor the cores of a worker beside it
)

_hasher: Final = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_hash_slots: Final = BoundedSemaphore(MAX_CONCURRENT_HASHES)
# of no password: an unknown user's try takes as long as any other
_DUMMY_HASH: Final = "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5IGhhcyB0aGlzIQ$wRlIzuGKjCXSNAN0lGLTEzi1hc2xAKRyPrHOGQrKxk4"


def hash_password(password: str) -> str:
    """Raises AccountRefused where it is too short or too long."""
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise AccountRefused(f"A password has {MIN_LENGTH} to {MAX_LENGTH} characters; a sentence makes a good one.")
    with _hash_slots:
        return _hasher.hash(password)


def verify_password(password: str, known: str | None) -> bool:
    """Whether it is the password of this hash; None, where there is no such user, takes as long and never is."""
    if len(password) > MAX_LENGTH:
        return False
    with _hash_slots:
        try:
            return _hasher.verify(known or _DUMMY_HASH, password) and known is not None
        except (VerificationError, InvalidHashError):
            return False


def needs_rehash(known: str) -> bool:
    """Whether it was made at other costs than today's."""
    return _hasher.check_needs_rehash(known)
