"""Which films enter the readers' worklist, and which of those are read blind.

Flagged films enter with their probability as their rank. Of the others a share enters as well, drawn by the film's
content: whatever readers say of flagged films alone, nobody could tell how many ill children the model did not flag. A
reader must not see which they are, so they are ranked among the flagged ones, their result is hidden until the verdict,
and so is that of some flagged films: a hidden result says nothing about what it is.
"""

import hashlib
from typing import Final, NamedTuple

HIDDEN_FLAGGED_SHARE: Final = 0.25  # share of the flagged films whose result is hidden as well, while there is a sample
UINT64_VALUES: Final = 2.0**64


class WorklistEntry(NamedTuple):
    """Columns of a scan. `worklist_rank`: None where it does not enter. `sampled_share`: by which it was drawn; None
    where it is flagged, or was not drawn."""

    worklist_rank: float | None
    hidden_until_verdict: bool
    sampled_share: float | None


def worklist_entry(sha256: str, probability: float, flagged: bool, threshold: float, share: float) -> WorklistEntry:
    """Where a classified film stands in the worklist.

    Args:
        share: of the films that are not flagged, 0 to 1, which are to be read.
    """
    drawn, place = _uniform_draws(sha256)
    if flagged:
        return WorklistEntry(probability, share > 0 and drawn < max(share, HIDDEN_FLAGGED_SHARE), None)
    if drawn >= share:
        return WorklistEntry(None, False, None)
    # between the threshold and 1, more of them near 1, as flagged films are
    return WorklistEntry(threshold + (1 - threshold) * (1 - place**2), True, share)


def _uniform_draws(sha256: str) -> tuple[float, float]:
    """Two numbers, 0 to below 1: the same film is drawn or not whoever reads it, and whenever."""
    digest = hashlib.sha256(f"pneumowatch-sample-1:{sha256}".encode()).digest()
    first, second = (int.from_bytes(digest[start : start + 8], "big") / UINT64_VALUES for start in (0, 8))
    return first, second
