"""Batches: messages merged on their way in, films merged on their way into the model."""

import queue
import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future
from typing import Any, Final, Protocol

import numpy as np
from celery import Celery
from celery_batches import Batches

from pneumowatch.errors import ShuttingDown
from pneumowatch.film import Pixels
from pneumowatch.metrics import BATCH_IMAGES
from worker.readings import ModelOutput

FLUSH_SECONDS: Final = 0.05  # a lone message waits this long for company
NEVER_FLUSH_BY_COUNT: Final = 2**31


class Predictor(Protocol):
    def predict(self, images: Pixels) -> ModelOutput: ...


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
            count_announced_here = count_announced(_arguments(message))
            qos = consumer.qos  # of this connection: the next one's will not have given this
            with self._lock:
                before = qos.value
                # what was taken off, to the letter: the count stops at one, and must not grow by what it did not give
                lowered_by = before - qos.decrement_eventually(count_announced_here - 1)

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
                self._announced += count_announced_here
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


class Batcher:
    """Merges the films of several claims into one predict, cut whenever the model is free.

    One thread owns the model. While it predicts, the next claims decode; what has come by the time it is done makes the
    next batch, so batches grow with the load and a lone film never waits for others.
    """

    def __init__(self, predictor: Predictor, batch_size: int) -> None:
        self._predictor = predictor
        self._batch_size = batch_size
        self._waiting: queue.SimpleQueue[tuple[Pixels, Future[ModelOutput]] | None] = queue.SimpleQueue()
        self._carried_over: tuple[Pixels, Future[ModelOutput]] | None = None  # did not fit into the last batch
        self._put_lock = threading.Lock()  # nothing may be put behind the end: it would be waited for, for ever
        self._closed = False
        self._acks_stopped = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    def predict(self, images: Pixels) -> ModelOutput:
        """What the model says of films (n, side, side), n up to the batch size; blocks. Raises what the model raised,
        and ShuttingDown after `close`."""
        future: Future[ModelOutput] = Future()
        with self._put_lock:
            if self._closed:
                raise ShuttingDown("The batcher is closed.")
            self._waiting.put((images, future))
        return future.result()

    def close(self) -> None:
        """Predict what waits, then end."""
        with self._put_lock:
            self._closed = True
            self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next_batch():
            try:
                images = np.concatenate([images for images, _ in batch])
                output = self._predictor.predict(images)
            except Exception as error:  # noqa: BLE001 - whatever it was, those who wait must hear of it
                for _, future in batch:
                    future.set_exception(error)
                continue
            BATCH_IMAGES.observe(len(images))
            start = 0
            for images_of_claim, future in batch:
                future.set_result(output.images_of_claim(start, start + len(images_of_claim)))
                start += len(images_of_claim)

    def _next_batch(self) -> list[tuple[Pixels, Future[ModelOutput]]]:
        """What waits, up to the batch size; blocks for the first. Empty at the end."""
        first = self._carried_over or self._waiting.get()
        self._carried_over = None
        if first is None:
            return []
        batch, count = [first], len(first[0])
        while count < self._batch_size:
            try:
                item = self._waiting.get_nowait()
            except queue.Empty:
                break
            if item is None:
                self._waiting.put(None)  # the end, after this batch
                break
            if count + len(item[0]) > self._batch_size:
                self._carried_over = item
                break
            batch.append(item)
            count += len(item[0])
        return batch
