"""Wait for what a test or a script can observe: the one place that polls, and the one reason why it gives up.

Its deadline is a bound on hanging, not on speed: a busy machine takes its time, and a test that is right passes on it.
"""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class NotInTime(AssertionError):
    """What was waited for has not come."""


def eventually(
    condition: Callable[[], T], seconds: float = 60.0, every: float = 0.02, message: str | Callable[[], str] = ""
) -> T:
    """Return the first true answer of `condition`, which is asked again and again.

    Args:
        seconds: how long, by the monotonic clock; it is asked once at least, and once more at the very end.
        every: seconds between two questions.
        message: what to say where no true answer comes, or a function that tells it then.

    Raises:
        NotInTime: an AssertionError with the message.
    """
    deadline = time.monotonic() + seconds
    while True:
        late = time.monotonic() >= deadline  # before it is asked: the last answer is one of after the deadline
        if answer := condition():
            return answer
        if late:
            said = message() if callable(message) else message
            raise NotInTime(f"still not so after {seconds:g} seconds{': ' if said else ''}{said}")
        time.sleep(every)  # the one polling pause: nobody tells a test of rows, files and processes as they change
