"""Hashing and checking of passwords."""

import pytest

from pneumowatch.errors import AccountRefused
from review.access import passwords


def test_a_password_agrees_with_its_own_hash_alone() -> None:
    known = passwords.hash_password("a sentence of some words")
    assert passwords.verify_password("a sentence of some words", known)
    assert not passwords.verify_password("a sentence of some word", known)
    assert known != passwords.hash_password("a sentence of some words"), "each has a salt of its own"
    assert not passwords.needs_rehash(known)
    assert passwords.needs_rehash("$argon2id$v=19$m=8,t=1,p=1$bm9ib2R5IGhhcyB0aGlz$OQ9lvmm7zMuz3cYpXOZzyg")


@pytest.mark.parametrize("hash_", [None, "", "no hash", "$argon2id$v=19$m=8,t=1,p=1$x$y"])
def test_nothing_agrees_with_what_is_none(hash_: str | None) -> None:
    assert not passwords.verify_password("", hash_)
    assert not passwords.verify_password("a sentence of some words", hash_)


def test_an_unknown_user_costs_a_whole_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hashing is counted, not timed: the same function at the same costs."""
    asked: list[str] = []

    class Counting:
        def verify(self, known: str, password: str) -> bool:
            asked.append(known)
            return bool(real.verify(known, password))

    real = passwords._hasher
    monkeypatch.setattr(passwords, "_hasher", Counting())
    assert not passwords.verify_password("a sentence of some words", None)
    (known,) = asked
    assert not real.check_needs_rehash(known)


@pytest.mark.parametrize("password", ["", "short", "x" * (passwords.MAX_LENGTH + 1)])
def test_what_is_too_short_or_too_long(password: str) -> None:
    with pytest.raises(AccountRefused, match="A password has"):
        passwords.hash_password(password)
