"""Hash and verify passwords: argon2id with the minimum of OWASP's Password Storage Cheat Sheet (19 MiB, two passes)."""

from threading import BoundedSemaphore
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from pneumowatch.errors import AccountRefused

MIN_LENGTH: Final = 12  # characters
MAX_LENGTH: Final = 256
MAX_CONCURRENT_HASHES: Final = 2  # a flood of attempts must not take memory or cores from a worker on the same machine

_hasher: Final = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_hash_slots: Final = BoundedSemaphore(MAX_CONCURRENT_HASHES)
# hash of no known password: an attempt for an unknown user must take as long as any other
_DUMMY_HASH: Final = "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5IGhhcyB0aGlzIQ$wRlIzuGKjCXSNAN0lGLTEzi1hc2xAKRyPrHOGQrKxk4"


def hash_password(password: str) -> str:
    """Return the argon2id hash of a password. Raises AccountRefused if it is too short or too long."""
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise AccountRefused(f"A password has {MIN_LENGTH} to {MAX_LENGTH} characters; a sentence is a good choice.")
    with _hash_slots:
        return _hasher.hash(password)


def verify_password(password: str, known: str | None) -> bool:
    """Tell whether a password matches a hash.

    `known` is None for an unknown user: the check then takes as long as any other and returns False, so that its
    duration does not reveal which users exist.
    """
    if len(password) > MAX_LENGTH:
        return False
    with _hash_slots:
        try:
            return _hasher.verify(known or _DUMMY_HASH, password) and known is not None
        except (VerificationError, InvalidHashError):
            return False


def needs_rehash(known: str) -> bool:
    """Tell whether a hash was made with other cost parameters than the current ones."""
    return _hasher.check_needs_rehash(known)
