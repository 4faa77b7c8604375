"""Batch the images of several claims into one predict."""

import queue
import threading
from concurrent.futures import Future
from typing import Protocol

import numpy as np

from pneumowatch.errors import ShuttingDown
from pneumowatch.imaging.reader import Pixels
from pneumowatch.metrics import BATCH_IMAGES
from worker.inference.model_output import ModelOutput


class Predictor(Protocol):
    def predict(self, images: Pixels) -> ModelOutput: ...


class Batcher:
    """Merges the images of several claims into one predict, cut whenever the model is free.

    One thread owns the model. While it predicts, the next claims are decoded. Images that are ready when it is done
    make the next batch, so batches grow with the load and a single image never waits for others.
    """

    def __init__(self, predictor: Predictor, batch_size: int) -> None:
        self._predictor = predictor
        self._batch_size = batch_size
        self._waiting: queue.SimpleQueue[tuple[Pixels, Future[ModelOutput]] | None] = queue.SimpleQueue()
        self._carried_over: tuple[Pixels, Future[ModelOutput]] | None = None  # did not fit into the last batch
        self._put_lock = threading.Lock()  # nothing may be queued after the end mark: its caller would wait for ever
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    def predict(self, images: Pixels) -> ModelOutput:
        """Return the model's output for images (n, side, side), n up to the batch size; blocks.

        Raises what the model raised, and ShuttingDown after `close`.
        """
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
            except Exception as error:  # noqa: BLE001 - whatever it was, the waiting callers must get it
                for _, future in batch:
                    future.set_exception(error)
                continue
            BATCH_IMAGES.observe(len(images))
            start = 0
            for claim_images, future in batch:
                future.set_result(output.slice(start, start + len(claim_images)))
                start += len(claim_images)

    def _next_batch(self) -> list[tuple[Pixels, Future[ModelOutput]]]:
        """Return what waits, up to the batch size. Blocks for the first; empty after `close`."""
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
