"""Images of several claims in one predict: what is merged, where it is cut, and which claims get an error."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
from support.waiting import eventually

from pneumowatch.imaging.reader import Pixels
from worker.inference.batcher import Batcher
from worker.inference.model_output import ModelOutput

SIZE = 8
PATIENCE = 60.0


class Gate:
    """A model that returns each image's own number, and only when it is released."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open = threading.Semaphore(0)
        self.busy = threading.Semaphore(0)
        self.fails: set[int] = set()  # images that the model cannot take

    def predict(self, images: Pixels) -> ModelOutput:
        self.busy.release()
        assert self.open.acquire(timeout=PATIENCE)
        numbers = images[:, 0, 0].tolist()
        self.batches.append(numbers)
        if self.fails & set(numbers):
            raise MemoryError("the card is full")
        return ModelOutput.from_probabilities(images[:, 0, 0])

    def let(self, batches: int) -> None:
        for _ in range(batches):
            self.open.release()

    def wait_until_busy(self) -> None:
        assert self.busy.acquire(timeout=PATIENCE)


def images(*numbers: int) -> Pixels:
    return np.stack([np.full((2, 2), number, np.uint8) for number in numbers])


class Claims:
    """Claims that wait for their probabilities, each in a thread, submitted one after the other."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher
        self._pool = ThreadPoolExecutor(20)

    def put(self, *numbers: int) -> Future[ModelOutput]:
        before = self._batcher._waiting.qsize()
        future = self._pool.submit(self._batcher.predict, images(*numbers))
        eventually(lambda: self._batcher._waiting.qsize() != before or future.done(), every=0.002)
        return future

    def put_first(self, gate: Gate, *numbers: int) -> Future[ModelOutput]:
        future = self._pool.submit(self._batcher.predict, images(*numbers))
        gate.wait_until_busy()
        return future


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def batcher(gate: Gate) -> Iterator[Batcher]:
    made = Batcher(gate, SIZE)
    yield made
    gate.let(100)
    made.close()


def test_a_lone_image_waits_for_nobody(gate: Gate, batcher: Batcher) -> None:
    gate.let(1)
    assert batcher.predict(images(5)).probability.tolist() == [5]
    assert gate.batches == [[5]]


def test_what_came_while_the_model_was_busy_makes_one_batch_in_order(gate: Gate, batcher: Batcher) -> None:
    claims = Claims(batcher)
    futures = [claims.put_first(gate, 1), claims.put(2, 3), claims.put(4), claims.put(5, 6, 7)]
    gate.let(2)
    assert [future.result(PATIENCE).probability.tolist() for future in futures] == [[1], [2, 3], [4], [5, 6, 7]]
    assert gate.batches == [[1], [2, 3, 4, 5, 6, 7]]


def test_a_batch_is_cut_at_its_size_and_what_did_not_fit_comes_next(gate: Gate, batcher: Batcher) -> None:
    claims = Claims(batcher)
    futures = [claims.put_first(gate, 1)]
    futures += [claims.put(*range(10, 15)), claims.put(*range(20, 25)), claims.put(30), claims.put(*range(40, 48))]
    gate.let(9)
    expected = [[1], [*range(10, 15)], [*range(20, 25)], [30], [*range(40, 48)]]
    assert [future.result(PATIENCE).probability.tolist() for future in futures] == expected
    assert gate.batches == [[1], [*range(10, 15)], [*range(20, 25), 30], [*range(40, 48)]]


def test_a_full_batch_fits_exactly(gate: Gate, batcher: Batcher) -> None:
    claims = Claims(batcher)
    futures = [claims.put_first(gate, 1), claims.put(*range(10, 14)), claims.put(*range(20, 24)), claims.put(30)]
    gate.let(9)
    for future in futures:
        future.result(PATIENCE)
    assert gate.batches == [[1], [*range(10, 14), *range(20, 24)], [30]]


def test_an_error_reaches_all_of_its_batch_and_none_of_the_next(gate: Gate, batcher: Batcher) -> None:
    gate.fails = {3}
    claims = Claims(batcher)
    futures = [claims.put_first(gate, 1), claims.put(2), claims.put(3), claims.put(*range(10, 18))]
    gate.let(9)
    assert futures[0].result(PATIENCE).probability.tolist() == [1]
    for future in futures[1:3]:
        with pytest.raises(MemoryError):
            future.result(PATIENCE)
    assert futures[3].result(PATIENCE).probability.tolist() == [*range(10, 18)]


def test_images_of_another_size_are_an_error_of_theirs_and_not_the_end(gate: Gate, batcher: Batcher) -> None:
    pool, claims = ThreadPoolExecutor(2), Claims(batcher)
    first = claims.put_first(gate, 1)
    claims.put(2)
    odd = pool.submit(batcher.predict, np.zeros((1, 5, 5), np.uint8))
    while batcher._waiting.qsize() < 2:
        pass
    gate.let(9)
    assert first.result(PATIENCE).probability.tolist() == [1]
    with pytest.raises(ValueError, match="dimension"):
        odd.result(PATIENCE)
    assert batcher.predict(images(9)).probability.tolist() == [9]


def test_close_finishes_what_waits(gate: Gate) -> None:
    batcher = Batcher(gate, SIZE)
    claims = Claims(batcher)
    futures = [claims.put_first(gate, 1), claims.put(*range(10, 16)), claims.put(*range(20, 26)), claims.put(30)]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    gate.let(9)
    closing.join(PATIENCE)
    assert not closing.is_alive()
    assert [len(future.result(PATIENCE).probability) for future in futures] == [1, 6, 6, 1]
    assert not batcher._thread.is_alive()


def test_who_comes_after_closing_hears_of_it(gate: Gate) -> None:
    """A second Ctrl-C ends the worker under its threads; one that waited for ever would keep the process alive."""
    batcher = Batcher(gate, SIZE)
    batcher.close()
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(batcher.predict, images(1))
        try:
            with pytest.raises(Exception, match="closed"):
                late.result(1)
        finally:
            if not late.done():  # set free the thread of a batcher that fails this test
                batcher._waiting.get()[1].set_result(ModelOutput.from_probabilities([0]))


def test_any_order_of_any_claims_keeps_each_claims_images(gate: Gate, batcher: Batcher) -> None:
    gate.let(500)
    rng = np.random.default_rng(4)
    claims = [rng.integers(0, 255, rng.integers(1, SIZE + 1)).tolist() for _ in range(120)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda numbers: batcher.predict(images(*numbers)).probability.tolist(), claims))
    assert answers == claims
    assert max(len(batch) for batch in gate.batches) <= SIZE
