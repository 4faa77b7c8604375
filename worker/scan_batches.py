"""Collect Celery messages into batches, weighing each by the scans that it announces."""

import threading
from collections.abc import Callable, Collection
from typing import Any, Final

from celery import Celery
from celery_batches import Batches

FLUSH_SECONDS: Final = 0.05  # a lone message waits this long for company
NEVER_FLUSH_BY_COUNT: Final = 2**31


class ScanBatches(Batches):
    """celery-batches that counts films, not messages, since one message may stand for one film or for a whole batch.

    - The prefetch is bounded in films: each message weighs as many as it announces, by lowering the consumer's
      prefetch count while the message is unacknowledged. A worker so never hoards what another could read.
    - A flush happens when a batch of films is there, or after FLUSH_SECONDS; at once where no other is being read, so
      that a lone film waits for nobody.
    - Once it is closed, nothing is flushed any more: the timer outlives Celery's pool, which takes nothing by then.
      What is left is unacknowledged, and comes to the next worker.
    - After a reconnect the strategy is built anew, but celery-batches keeps the old connection's timer and never
      flushes again: the timer is dropped here. The in-process transport's timer is a thread of its own, so the count
      and the flush stand under a lock.
    """

    abstract = True
    flush_every = NEVER_FLUSH_BY_COUNT
    flush_interval = FLUSH_SECONDS
    batch_size = 32

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.RLock()
        self._announced = 0  # announced by buffered messages
        self._flushes = 0  # handed to the pool and not yet read
        self._closed = False
        self._acks_stopped = False
        self.received = 0  # messages that ever came
        self._tref: Any

    def Strategy(self, task: Batches, app: Celery, consumer: Any) -> Callable[..., None]:
        with self._lock:
            if self._tref is not None:
                self._tref.cancel()
            self._tref = None
        accept = super().Strategy(task, app, consumer)
        with self._lock:
            if self.buffered:  # left over from the connection before: no message may come to set the timer again
                self._do_flush()

        def handle(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **options: Any) -> None:
            announced = count_announced(_arguments(message))
            qos = consumer.qos  # of this connection: the next one's will not have given this
            with self._lock:
                before = qos.value
                # what was taken off, to the letter: the count stops at one, and must not grow by what it did not give
                lowered_by = before - qos.decrement_eventually(announced - 1)

            # Celery's loop acknowledges between two messages. The in-process transport's waits two seconds for the next
            # one, which does not come while the prefetch is full: there the message is acknowledged at once.
            acknowledge = ack if consumer.hub else message.ack_log_error

            def ack_and_restore_prefetch(*args: Any, **kwargs: Any) -> Any:
                with self._lock:
                    if self._acks_stopped:
                        return None
                    qos.increment_eventually(lowered_by)
                return acknowledge(*args, **kwargs)

            with self._lock:
                self.received += 1
                accept(message, body, ack_and_restore_prefetch, reject, callbacks, **options)
                self._announced += announced
                if self._announced >= self.batch_size or not self._flushes:
                    self._do_flush()

        return handle

    @property
    def busy(self) -> bool:
        """Whether a batch is being read."""
        return self._flushes > 0

    @property
    def buffered(self) -> int:
        """Messages that have come and are in nobody's hands."""
        return int(self._buffer.qsize())

    def close(self) -> None:
        """From any thread, before the pool ends: hand nothing more to it."""
        with self._lock:
            self._closed = True

    def stop_acknowledging(self) -> None:
        """At shutdown: what was not read goes to others, so nothing is acknowledged any more. For what was read they
        come in vain, which does no harm."""
        with self._lock:
            self._acks_stopped = True

    def _do_flush(self) -> None:
        with self._lock:
            if not self._closed:
                self._announced = 0
                super()._do_flush()

    def flush(self, requests: Collection[Any]) -> Any:
        self._flushes += 1
        return super().flush(requests)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().__call__(*args, **kwargs)
        finally:
            with self._lock:
                self._flushes -= 1


def count_announced(arguments: Any) -> int:
    """How many scan ids a message carries; at least one, so that a message of another make cannot upset the count."""
    try:
        return max(1, len(arguments[0]))
    except (LookupError, TypeError):
        return 1


def _arguments(message: Any) -> Any:
    try:
        return message.payload[0]
    except (LookupError, TypeError, ValueError):
        return None
