"""`eventually`: it returns the first true answer, or reports what was waited for."""

import pytest
from support.waiting import NotInTime, eventually


def test_the_first_true_answer_is_returned() -> None:
    answers = iter([None, 0, "", "at last", "too late"])
    assert eventually(lambda: next(answers), every=0) == "at last"


@pytest.mark.parametrize("message", ["no image", lambda: "no image"], ids=["said", "asked for"])
def test_what_never_comes_is_told(message: str) -> None:
    with pytest.raises(AssertionError, match="still not so after 0 seconds: no image"):
        eventually(lambda: False, seconds=0, message=message)


def test_it_is_asked_once_at_least() -> None:
    assert eventually(lambda: "there", seconds=0) == "there"
    with pytest.raises(NotInTime):
        eventually(lambda: "", seconds=0)


def test_a_fault_of_the_condition_ends_the_wait() -> None:
    with pytest.raises(ZeroDivisionError):
        eventually(lambda: 1 / 0)
