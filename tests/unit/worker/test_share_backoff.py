"""Images that are not there: the share is asked whether it is present, and attempts become rarer while it is away."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from db.ledger.outcomes import ClaimedScan
from pneumowatch.mount_identity import MountedFolder
from worker.decode import DecodeFailure, FileUnavailable
from worker.share_backoff import FIRST_SHARE_RETRY_SECONDS, LAST_SHARE_RETRY_SECONDS, ShareBackoff

INBOX, DROPPED = MountedFolder("nfs4", "/images", "the inbox"), MountedFolder("ext4", "/", "beneath it")
GONE = {"reason": "vanished", "sentence": "The file is no longer there."}


class Porter:
    """Verifies one mount, and counts the calls."""

    def __init__(self) -> None:
        self.asked = 0

    def verify_mount(self, inbox: str, root: Path, found: MountedFolder) -> bool:
        self.asked += 1
        return found == INBOX


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def scan(scan_id: int, inbox: str = "ward") -> ClaimedScan:
    return ClaimedScan(scan_id, inbox, b"a.png", 1, 1, datetime(2026, 1, 1, tzinfo=UTC), 0)


def backoff(porter: Any = None, clock: Any = None) -> ShareBackoff:
    return ShareBackoff(porter or Porter(), {"ward": Path("/images")}, clock or Clock())


def test_what_is_not_in_the_inbox_has_vanished() -> None:
    gone = DecodeFailure(1, **GONE, searched_folder=INBOX)
    assert backoff().confirm([scan(1)], {1: gone}) == [gone]


def test_what_is_not_in_another_folder_is_out_of_reach() -> None:
    gone = DecodeFailure(1, **GONE, searched_folder=DROPPED)
    assert backoff().confirm([scan(1)], {1: gone}) == [FileUnavailable(1, FIRST_SHARE_RETRY_SECONDS)]


def test_it_is_asked_once_a_batch() -> None:
    porter = Porter()
    gone = {n: DecodeFailure(n, **GONE, searched_folder=DROPPED) for n in range(20)}
    backoff(porter).confirm([scan(n) for n in range(20)], gone)
    assert porter.asked == 1


def test_an_inbox_that_this_machine_does_not_know_is_away() -> None:
    assert backoff().confirm([scan(1, "cellar")], {}) == [FileUnavailable(1, FIRST_SHARE_RETRY_SECONDS)]


def test_while_an_inbox_is_away_one_image_in_a_while_finds_out_whether_it_still_is() -> None:
    clock = Clock()
    weigher = backoff(clock=clock)
    images = [scan(1), scan(2), scan(3), scan(4, "cellar")]
    assert weigher.select_due(images) == images[:3]
    weigher.confirm(images, {})
    assert weigher.select_due(images) == [images[0]], "the first wait is for the images alone"
    assert weigher.select_due(images) == [], "nor does another thread try meanwhile"
    clock.now += FIRST_SHARE_RETRY_SECONDS
    assert weigher.select_due(images) == [images[0]]
    answers = weigher.confirm(images, {1: DecodeFailure(1, **GONE, searched_folder=INBOX)})
    assert [getattr(answer, "seconds", None) for answer in answers[:3]] == [None, 0, 0], (
        "it is back: the others are due"
    )
    assert weigher.select_due(images) == images[:3]


def test_tries_become_rarer_until_the_inbox_is_reached() -> None:
    clock = Clock()
    weigher = backoff(clock=clock)
    waits = []
    for _ in range(12):
        (answer,) = weigher.confirm([scan(1)], {1: FileUnavailable(1)})
        assert isinstance(answer, FileUnavailable)
        waits.append(answer.seconds)
        clock.now += answer.seconds
    assert waits[:4] == [5, 5, 10, 20]
    assert waits[-1] == LAST_SHARE_RETRY_SECONDS
    weigher.confirm([scan(1)], {1: DecodeFailure(1, "unreadable", "A sentence.", size=1, mtime_ns=1)})
    assert weigher.confirm([scan(1)], {1: FileUnavailable(1)}) == [FileUnavailable(1, FIRST_SHARE_RETRY_SECONDS)]


def test_each_inbox_has_its_own_wait() -> None:
    clock = Clock()
    weigher = backoff(clock=clock)
    weigher.confirm([scan(1)], {1: FileUnavailable(1)})
    clock.now += 60
    both = weigher.confirm([scan(1), scan(2, "er")], {1: FileUnavailable(1), 2: FileUnavailable(2)})
    assert both == [FileUnavailable(1, 60), FileUnavailable(2, FIRST_SHARE_RETRY_SECONDS)]
