"""Turn SIGTERM and Ctrl-C into an event, from the start of a command on."""

import _thread
import signal
import threading
from typing import Any


def stop_event() -> threading.Event:
    """Return an event that SIGTERM and Ctrl-C set from now on. A second Ctrl-C ends the process at once.

    No KeyboardInterrupt is used: it is raised wherever the main thread happens to be, and libraries that catch every
    error while they load would swallow it.
    """
    stop = threading.Event()

    def request_stop(number: int, _frame: Any) -> None:
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        # in another thread: this one may hold the event's lock, and would wait for it for ever
        _thread.start_new_thread(stop.set, ())

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, request_stop)
    return stop
