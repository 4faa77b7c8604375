"""The end that people or a supervisor ask for, from a command's first moment on."""

import _thread
import signal
import threading
from typing import Any


def stop_event() -> threading.Event:
    """An event that SIGTERM and Ctrl-C set from now on, while the main thread goes on. A second Ctrl-C ends at once.

    No KeyboardInterrupt, which is raised wherever the main thread happens to be: libraries that catch whatever goes
    wrong while they are loaded lose it, and nothing ends.
    """
    stop = threading.Event()

    def request_stop(number: int, _frame: Any) -> None:
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        # by another thread: this one may be within the event, and would wait for its lock for ever
        _thread.start_new_thread(stop.set, ())

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, request_stop)
    return stop
