"""Collect Celery messages into batches, weighing each message by the scans that it announces."""

import threading
from collections.abc import Callable, Collection
from typing import Any, Final

from celery import Celery
from celery_batches import Batches

FLUSH_SECONDS: Final = 0.05  # longest time that a message waits for others while a batch is processed
NEVER_FLUSH_BY_COUNT: Final = 2**31


class ScanBatches(Batches):
    """celery-batches that counts scans, not messages, since one message may announce one scan or a whole batch.

    - The prefetch is bounded in scans: while a message is unacknowledged, the consumer's prefetch count is lowered by
      the scans that it announces. So a worker never holds scans that another worker could process.
    - A batch is flushed when it is full, or after FLUSH_SECONDS; at once where no other batch is being processed, so
      that a single scan does not wait.
    - After `close` nothing is flushed: the timer outlives Celery's pool, which accepts nothing by then. Messages left
      over are unacknowledged and go to the next worker.
    - After a reconnect Celery builds the strategy again, but celery-batches keeps the old connection's timer and never
      flushes again: the timer is dropped here. The in-process transport's timer is a thread of its own, so a lock
      guards the count and the flush.
    """

    abstract = True
    flush_every = NEVER_FLUSH_BY_COUNT
    flush_interval = FLUSH_SECONDS
    batch_size = 32

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.RLock()
        self._announced = 0  # scans announced by buffered messages
        self._flushes = 0  # batches handed to the pool and not yet processed
        self._closed = False
        self._acks_stopped = False
        self.received = 0  # messages, since the start
        self._tref: Any

    def Strategy(self, task: Batches, app: Celery, consumer: Any) -> Callable[..., None]:
        """Return the function that handles each message of this connection."""
        with self._lock:
            if self._tref is not None:
                self._tref.cancel()
            self._tref = None
        accept = super().Strategy(task, app, consumer)
        with self._lock:
            if self.buffered:  # from the connection before: no new message need come and set the timer again
                self._do_flush()

        def handle(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **options: Any) -> None:
            announced = count_announced(_arguments(message))
            qos = consumer.qos  # of this connection: the next connection has a count of its own
            with self._lock:
                before = qos.value
                # the exact amount taken off: the count stops at one, and must not be raised by more than it was lowered
                lowered_by = before - qos.decrement_eventually(announced - 1)

            # Celery's loop acknowledges between two messages. With the in-process transport it waits two seconds for
            # the next message, and none comes while the prefetch is full: there the message is acknowledged at once.
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
        """Whether a batch is being processed."""
        return self._flushes > 0

    @property
    def buffered(self) -> int:
        """Number of messages received and not yet flushed."""
        return int(self._buffer.qsize())

    def close(self) -> None:
        """Stop flushing batches. To be called before the pool ends, from any thread."""
        with self._lock:
            self._closed = True

    def stop_acknowledging(self) -> None:
        """Acknowledge nothing more, at shutdown, so that messages of unprocessed scans go to other workers.

        Messages of scans that were processed are delivered again too, which is harmless: they find nothing to claim.
        """
        with self._lock:
            self._acks_stopped = True

    def _do_flush(self) -> None:
        with self._lock:
            if not self._closed:
                self._announced = 0
                super()._do_flush()

    def flush(self, requests: Collection[Any]) -> Any:
        """Start a batch in the pool, and count it."""
        self._flushes += 1
        return super().flush(requests)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().__call__(*args, **kwargs)
        finally:
            with self._lock:
                self._flushes -= 1


def count_announced(arguments: Any) -> int:
    """Return how many scan ids a message carries; at least one, so that a malformed message cannot upset the count."""
    try:
        return max(1, len(arguments[0]))
    except (LookupError, TypeError):
        return 1


def _arguments(message: Any) -> Any:
    try:
        return message.payload[0]
    except (LookupError, TypeError, ValueError):
        return None
