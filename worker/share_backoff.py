"""Tell files that have vanished from files on a share that is away, and decide when to retry the latter."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from db.health.inbox_presence import InboxPresence
from db.ledger.outcomes import ClaimedScan
from pneumowatch.mount_identity import MountedFolder
from worker.decode import DecodeFailure, DecodeResult, FileUnavailable

# Scans of a share that is away are retried after these delays, which grow because each retry costs a claim and two
# events per scan. When the share returns they are retried at once.
FIRST_SHARE_RETRY_SECONDS: Final = 5.0
LAST_SHARE_RETRY_SECONDS: Final = 300.0


class ShareBackoff:
    """Remembers which inboxes are away for this process, and spaces the attempts to reach them.

    Args:
        inboxes: name -> folder, as mounted on this machine. Any other inbox counts as a share that is away.
    """

    def __init__(
        self, presence: InboxPresence, inboxes: Mapping[str, Path], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._presence = presence
        self._inboxes = inboxes
        self._monotonic = monotonic
        self._away_since: dict[str, float] = {}  # inbox -> since when it has been away (monotonic seconds)
        self._next_try: dict[str, float] = {}  # inbox that is away -> when to try it again (monotonic seconds)

    def select_due(self, scans: Sequence[ClaimedScan]) -> list[ClaimedScan]:
        """Return the scans whose files are to be read now.

        From an inbox that is known to be away only one scan is tried from time to time, to find out whether it is back.
        Each try takes as long as the share hangs, and scans of other inboxes would wait for it.
        """
        now = self._monotonic()
        selected, asked = [], set[str]()
        for scan in scans:
            if scan.inbox in self._away_since:
                if scan.inbox in asked or now < self._next_try.get(scan.inbox, now):
                    continue
                asked.add(scan.inbox)
                self._next_try[scan.inbox] = now + self._retry_delay(scan.inbox)
            if scan.inbox in self._inboxes:
                selected.append(scan)
        return selected

    def confirm(self, scans: Sequence[ClaimedScan], answers: Mapping[int, DecodeResult]) -> list[DecodeResult]:
        """Return one answer per scan, in order. A missing file has vanished only where its inbox is available."""
        verified: dict[tuple[str, MountedFolder], bool] = {}
        confirmed = [self._confirm(scan, answers.get(scan.id, FileUnavailable(scan.id)), verified) for scan in scans]
        reached = {
            scan.inbox for scan, answer in zip(scans, confirmed, strict=True) if not isinstance(answer, FileUnavailable)
        }
        for inbox in reached:
            self._away_since.pop(inbox, None)
            self._next_try.pop(inbox, None)
        return [
            replace(answer, seconds=0 if scan.inbox in reached else self._retry_delay(scan.inbox))
            if isinstance(answer, FileUnavailable)
            else answer
            for scan, answer in zip(scans, confirmed, strict=True)
        ]

    def _confirm(
        self, scan: ClaimedScan, answer: DecodeResult, verified: dict[tuple[str, MountedFolder], bool]
    ) -> DecodeResult:
        if not isinstance(answer, DecodeFailure) or answer.searched_folder is None:
            return answer
        asked = scan.inbox, answer.searched_folder
        if asked not in verified:
            verified[asked] = self._presence.verify_mount(scan.inbox, self._inboxes[scan.inbox], answer.searched_folder)
        return answer if verified[asked] else FileUnavailable(scan.id)

    def _retry_delay(self, inbox: str) -> float:
        now = self._monotonic()
        return min(
            max(now - self._away_since.setdefault(inbox, now), FIRST_SHARE_RETRY_SECONDS), LAST_SHARE_RETRY_SECONDS
        )
