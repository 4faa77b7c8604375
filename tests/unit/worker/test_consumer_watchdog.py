"""When a worker counts as cut off from its queue, and how it recovers."""

import pytest

from pneumowatch.errors import BrokerUnavailable
from worker.consumer_watchdog import MIN_STALL_SECONDS, ConsumerWatchdog, stall_timeout

SECONDS = 10.0


class Scene:
    """A broker and a worker as `ConsumerWatchdog` sees them."""

    def __init__(self) -> None:
        self.waiting, self.heard, self.busy, self.away = 0, 0, False, False
        self.done: list[str] = []
        self.moment = 0.0
        self.watchdog = ConsumerWatchdog(
            self.count,
            lambda: self.heard,
            lambda: self.busy,
            lambda: self.done.append("rebuilt"),
            SECONDS,
            lambda: self.done.append("ended"),
        )

    def count(self) -> int:
        if self.away:
            raise BrokerUnavailable("The message broker does not answer.")
        return self.waiting

    def pass_by(self, seconds: float) -> list[str]:
        for _ in range(round(seconds)):
            self.moment += 1
            self.watchdog.check(self.moment)
        return self.done


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_an_empty_queue_is_no_fault(scene: Scene) -> None:
    assert scene.pass_by(100) == []


def test_messages_that_wait_and_none_that_comes(scene: Scene) -> None:
    scene.pass_by(5)
    scene.waiting = 1
    assert scene.pass_by(SECONDS - 1) == []
    assert scene.pass_by(2) == ["rebuilt"]


def test_still_cut_off_after_it_was_rebuilt_it_ends(scene: Scene) -> None:
    scene.waiting = 1
    assert scene.pass_by(SECONDS + 3) == ["rebuilt"]
    assert scene.pass_by(SECONDS + 3) == ["rebuilt", "ended"]


def test_one_that_hears_again_is_rebuilt_again_before_it_ends(scene: Scene) -> None:
    scene.waiting = 1
    scene.pass_by(SECONDS + 3)
    scene.heard = 1
    assert scene.pass_by(SECONDS + 3) == ["rebuilt", "rebuilt"]


@pytest.mark.parametrize("sign", ["busy", "away", "heard"])
def test_signs_of_life_and_doubt(scene: Scene, sign: str) -> None:
    """While it reads, or the broker does not answer, nothing can be concluded; a slow trickle is noticed."""
    scene.waiting = 5
    for _ in range(20):
        setattr(scene, sign, scene.heard + 1 if sign == "heard" else True)
        assert scene.pass_by(SECONDS / 2) == []


def test_patience_goes_with_the_lease_and_outlasts_a_reconnect() -> None:
    assert stall_timeout(120) == 30
    assert stall_timeout(1) == MIN_STALL_SECONDS
