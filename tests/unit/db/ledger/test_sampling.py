"""Sampling of unflagged images, and blinded reading."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from db.ledger.sampling import HIDDEN_FLAGGED_SHARE, worklist_entry

IMAGES = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(4000)]
shares = st.floats(0, 1)


@given(st.sampled_from(IMAGES), shares, shares, shares)
def test_an_image_enters_where_it_belongs(sha256: str, probability: float, threshold: float, share: float) -> None:
    flagged = probability >= threshold
    found = worklist_entry(sha256, probability, flagged, threshold, share)
    assert found == worklist_entry(sha256, probability, flagged, threshold, share)
    if flagged:
        assert (found.worklist_rank, found.sampled_share) == (probability, None)
    elif found.worklist_rank is None:
        assert (found.hidden_until_verdict, found.sampled_share) == (False, None)
    else:
        assert threshold <= found.worklist_rank <= 1
        assert (found.hidden_until_verdict, found.sampled_share) == (True, share)


def test_as_many_are_drawn_as_the_share_says() -> None:
    drawn = [worklist_entry(image, 0.1, False, 0.5, 0.05).worklist_rank for image in IMAGES]
    assert 130 < sum(rank is not None for rank in drawn) < 270  # of 4,000; five standard deviations
    assert not any(worklist_entry(image, 0.1, False, 0.5, 0.0).worklist_rank for image in IMAGES)
    assert all(worklist_entry(image, 0.1, False, 0.5, 1.0).worklist_rank for image in IMAGES)


def test_who_is_drawn_by_a_small_share_is_drawn_by_a_larger_one() -> None:
    small, large = (
        {image for image in IMAGES if worklist_entry(image, 0.1, False, 0.5, share).hidden_until_verdict}
        for share in (0.05, 0.2)
    )
    assert small < large


def test_some_flagged_images_are_read_blind_while_there_is_a_sample() -> None:
    def blind(share: float) -> float:
        return sum(worklist_entry(image, 0.9, True, 0.5, share).hidden_until_verdict for image in IMAGES) / len(IMAGES)

    assert blind(0.0) == 0
    assert abs(blind(0.05) - HIDDEN_FLAGGED_SHARE) < 0.04
    assert abs(blind(0.6) - 0.6) < 0.04
    assert blind(1.0) == 1
