"""Choose the scans for the readers' worklist, and those among them that are read blind.

Flagged scans enter with their probability as their rank. A share of the others enters as well, drawn by the content.
Verdicts on flagged scans alone could not show how many ill children the model did not flag. Readers must not see which
scans were drawn. So these are ranked among the flagged ones, and their result is hidden until the verdict. The result
of some flagged scans is hidden as well, so that a hidden result reveals nothing.
"""

import hashlib
from typing import Final, NamedTuple

HIDDEN_FLAGGED_SHARE: Final = 0.25  # share of flagged scans with a hidden result, while scans are sampled
UINT64_VALUES: Final = 2.0**64


class WorklistEntry(NamedTuple):
    """Columns of a scan.

    `worklist_rank`: None if it does not enter. `sampled_share`: the share with which it was drawn; None if it is
    flagged or was not drawn.
    """

    worklist_rank: float | None
    hidden_until_verdict: bool
    sampled_share: float | None


def worklist_entry(sha256: str, probability: float, flagged: bool, threshold: float, share: float) -> WorklistEntry:
    """Return the entry of a classified scan in the worklist.

    Args:
        share: of the scans that are not flagged, 0 to 1, that enter the worklist.
    """
    drawn, place = _uniform_draws(sha256)
    if flagged:
        return WorklistEntry(probability, share > 0 and drawn < max(share, HIDDEN_FLAGGED_SHARE), None)
    if drawn >= share:
        return WorklistEntry(None, False, None)
    # between the threshold and 1, more of them near 1, as flagged scans are
    return WorklistEntry(threshold + (1 - threshold) * (1 - place**2), True, share)


def _uniform_draws(sha256: str) -> tuple[float, float]:
    """Return two numbers, 0 to below 1, that depend on the content alone: every worker, at any time, draws the same."""
    digest = hashlib.sha256(f"pneumowatch-sample-1:{sha256}".encode()).digest()
    first, second = (int.from_bytes(digest[start : start + 8], "big") / UINT64_VALUES for start in (0, 8))
    return first, second
