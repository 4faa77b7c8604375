"""The read-write lock: many readers together, or one writer alone."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from worker.rwlock import ReadWriteLock

PATIENCE = 60.0
MOMENT = 0.05  # long enough for a thread to get where it must not be


class Guest:
    """A thread that takes the lock, reports when it holds it, and keeps it until told to release."""

    def __init__(self, entrance: Callable[[], AbstractContextManager[None]]) -> None:
        self.inside = threading.Event()
        self._leave = threading.Event()
        self._entrance = entrance
        self.thread = threading.Thread(target=self._visit, daemon=True)
        self.thread.start()

    def _visit(self) -> None:
        with self._entrance():
            self.inside.set()
            self._leave.wait(PATIENCE)

    def leave(self) -> None:
        self._leave.set()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()

    @property
    def waits(self) -> bool:
        return not self.inside.wait(MOMENT)

    @property
    def is_in(self) -> bool:
        return self.inside.wait(PATIENCE)


def test_many_share_the_lock() -> None:
    lock = ReadWriteLock()
    guests = [Guest(lock.shared) for _ in range(3)]
    assert all(guest.is_in for guest in guests)
    for guest in guests:
        guest.leave()


def test_alone_waits_for_all_and_keeps_all_out() -> None:
    lock = ReadWriteLock()
    first, second = Guest(lock.shared), Guest(lock.shared)
    assert first.is_in
    assert second.is_in
    exclusive = Guest(lock.exclusive)
    first.leave()
    assert exclusive.waits
    second.leave()
    assert exclusive.is_in
    late, other_writer = Guest(lock.shared), Guest(lock.exclusive)
    assert late.waits
    assert other_writer.waits
    exclusive.leave()
    assert other_writer.is_in  # before the late one, who shares
    assert late.waits
    other_writer.leave()
    assert late.is_in
    late.leave()


def test_who_waits_to_be_alone_is_not_overtaken_by_a_flood() -> None:
    lock = ReadWriteLock()
    reader = Guest(lock.shared)
    assert reader.is_in
    exclusive = Guest(lock.exclusive)
    assert exclusive.waits
    flood = [Guest(lock.shared) for _ in range(5)]
    assert all(guest.waits for guest in flood)
    reader.leave()
    assert exclusive.is_in
    exclusive.leave()
    assert all(guest.is_in for guest in flood)
    for guest in flood:
        guest.leave()


@pytest.mark.parametrize("kind", ["shared", "exclusive"])
def test_an_error_inside_opens_the_door_again(kind: str) -> None:
    lock = ReadWriteLock()
    with pytest.raises(ZeroDivisionError), getattr(lock, kind)():
        raise ZeroDivisionError
    for entrance in (lock.shared, lock.exclusive):
        guest = Guest(entrance)
        assert guest.is_in
        guest.leave()


def test_no_deadlock_and_never_two_where_one_is_alone() -> None:
    lock, counted = ReadWriteLock(), threading.Lock()
    inside: list[str] = []
    broken: list[list[str]] = []

    @contextmanager
    def present(kind: str) -> Iterator[None]:
        with counted:
            inside.append(kind)
            if "exclusive" in inside and len(inside) > 1:
                broken.append(list(inside))
        time.sleep(0.0003)  # inside for a moment, in which another could come in
        yield
        with counted:
            inside.remove(kind)

    def visit(kind: str) -> None:
        for _ in range(60):
            with getattr(lock, kind)(), present(kind):
                pass

    threads = [threading.Thread(target=visit, args=(kind,), daemon=True) for kind in ["shared"] * 5 + ["exclusive"] * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)
    assert not broken
