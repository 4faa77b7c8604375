"""Celery's consumer as workers need it: prompt, and made anew where messages do not come, or must not."""

import logging
from functools import partial
from typing import Any, Final

from celery import Celery
from celery.worker.consumer import Consumer

MAX_RECONNECT_SECONDS: Final = 5
DRAIN_TIMEOUT_SECONDS: Final = 0.2


class DeliberateReconnect(ConnectionResetError):
    """The connection was not lost: this worker gives it up, and says why."""


class PromptConsumer(Consumer):
    """Celery's consumer, whose waits between attempts to reach the broker grow to 30 seconds, and whose loop over the
    in-process queue looks every two whether it is to end: here five, and a fifth of one."""

    def ensure_connected(self, conn: Any) -> Any:
        conn.ensure_connection = partial(conn.ensure_connection, interval_step=1, interval_max=MAX_RECONNECT_SECONDS)
        connected = super().ensure_connected(conn)
        if not self.hub:
            drain = connected.drain_events
            connected.drain_events = lambda timeout=None, **others: drain(timeout=DRAIN_TIMEOUT_SECONDS, **others)
        return connected

    def reconnect(self, reason: str) -> None:
        """From another thread: take the connection for lost, so that it is made anew, with all that hangs on it. What
        was not acknowledged on it goes back to the broker."""
        self._reconnect_reason = reason
        if self.hub:
            self.hub.call_soon(self.perform_pending_operations)

    _reconnect_reason = ""

    def perform_pending_operations(self) -> None:
        """Called in each round of the loop that has no hub; Celery calls what is pending there, and logs its errors."""
        if self._reconnect_reason:
            reason, self._reconnect_reason = self._reconnect_reason, ""
            raise DeliberateReconnect(reason)
        super().perform_pending_operations()


class QueueSubscription:
    """Whether this worker takes messages. While it cannot read, they go to others: those that it has, and all that
    come. The in-process queue has no others."""

    def __init__(self, app: Celery, worker: Any, queue: str) -> None:
        self._app, self._worker, self._queue = app, worker, queue
        self.paused = False

    def set_consuming(self, consuming: bool) -> None:
        if not self._worker.consumer.hub:
            return
        self.paused = not consuming
        if consuming:
            self.resubscribe("messages come again")
        else:
            self._app.amqp.queues.deselect([self._queue])
            self._worker.consumer.reconnect("this worker cannot read: messages go to others")

    def resubscribe(self, reason: str) -> None:
        """Take messages again, also where somebody has told the worker to take no more."""
        self._app.amqp.queues.select([self._queue])
        self._worker.consumer.reconnect(reason)


def shorten_deliberate_reconnect(record: logging.LogRecord) -> bool:
    """A filter for Celery's log: it tells of a lost connection with a traceback, which says nothing of one given up."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, DeliberateReconnect):
        record.msg, record.args, record.exc_info = f"the connection to the broker is made anew: {error}", (), None
    return True
