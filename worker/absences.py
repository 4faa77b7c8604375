"""Films that are not there: gone, or only out of reach, and then when to try again."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from db.outcomes import ClaimedScan
from db.presence import Presence
from pneumowatch.place import Place
from worker.decode import Away, Fetched, Undecoded

FIRST_SECONDS: Final = 5.0  # until films of a share that is away are tried again: later as it stays away, up to ...
LAST_SECONDS: Final = 300.0  # ... as each try costs a claim and two events a film; its return wakes them at once


class Absences:
    """What this process knows of inboxes whose films it cannot have.

    Args:
        inboxes: name -> folder, as mounted on this machine. Any other is, from here, a share that is away.
    """

    def __init__(
        self, presence: Presence, inboxes: Mapping[str, Path], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._presence = presence
        self._inboxes = inboxes
        self._monotonic = monotonic
        self._since: dict[str, float] = {}  # inbox -> when it was first away, and has been since
        self._next: dict[str, float] = {}  # such an inbox -> when it is worth another try

    def worth_a_try(self, scans: Sequence[ClaimedScan]) -> list[ClaimedScan]:
        """Those whose films are to be asked for. Of an inbox that is known to be away one in a while, which finds out
        whether it still is: each costs as long as the share hangs, and films of other inboxes would wait for that."""
        moment = self._monotonic()
        worth, asked = [], set[str]()
        for scan in scans:
            if scan.inbox in self._since:
                if scan.inbox in asked or moment < self._next.get(scan.inbox, moment):
                    continue
                asked.add(scan.inbox)
                self._next[scan.inbox] = moment + self._wait(scan.inbox)
            if scan.inbox in self._inboxes:
                worth.append(scan)
        return worth

    def weigh(self, scans: Sequence[ClaimedScan], answers: Mapping[int, Fetched]) -> list[Fetched]:
        """An answer for each scan, in its order. A film that is not there has vanished only where its inbox is."""
        here: dict[tuple[str, Place], bool] = {}
        weighed = [self._believe(scan, answers.get(scan.id, Away(scan.id)), here) for scan in scans]
        reached = {scan.inbox for scan, answer in zip(scans, weighed, strict=True) if not isinstance(answer, Away)}
        for inbox in reached:
            self._since.pop(inbox, None)
            self._next.pop(inbox, None)
        return [
            replace(answer, seconds=0 if scan.inbox in reached else self._wait(scan.inbox))
            if isinstance(answer, Away)
            else answer
            for scan, answer in zip(scans, weighed, strict=True)
        ]

    def _believe(self, scan: ClaimedScan, answer: Fetched, here: dict[tuple[str, Place], bool]) -> Fetched:
        if not isinstance(answer, Undecoded) or answer.place is None:
            return answer
        asked = scan.inbox, answer.place
        if asked not in here:
            here[asked] = self._presence.vouch(scan.inbox, self._inboxes[scan.inbox], answer.place)
        return answer if here[asked] else Away(scan.id)

    def _wait(self, inbox: str) -> float:
        moment = self._monotonic()
        return min(max(moment - self._since.setdefault(inbox, moment), FIRST_SECONDS), LAST_SECONDS)
