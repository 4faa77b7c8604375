"""Common image files: known pixels of every kind, and what is refused; the same cases as docs/evidence/formats.md."""

import pytest
from formats import common_images
from formats.refused import MAX_PIXELS, Refused

from pneumowatch.errors import ImageRejected
from pneumowatch.imaging import reader


@pytest.mark.parametrize("case", list(common_images.cases()), ids=lambda case: f"{case.kind}, {case.what}")
def test_the_gray_levels_of_an_image_are_those_it_shows(case: common_images.Case) -> None:
    assert case.off() <= case.tolerance


@pytest.mark.parametrize("case", list(common_images.refused()), ids=lambda case: case.what)
def test_what_is_no_image_to_be_read_is_refused_with_its_reason(case: Refused) -> None:
    with pytest.raises(ImageRejected) as caught:
        reader.read_image(case.data, 48, MAX_PIXELS)
    assert caught.value.reason == case.reason
