"""The circuit breaker: is an image at fault, or the worker that read it?"""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pneumowatch.errors import DeviceOutOfMemory, ShuttingDown
from worker import circuit_breaker
from worker.circuit_breaker import CircuitBreaker

PATIENCE = 60.0


class Trial:
    """Reads an image that any healthy worker can read."""

    def __init__(self) -> None:
        self.ill = False
        self.made = 0
        self.heals_after = 10**9

    def __call__(self) -> None:
        self.made += 1
        if self.ill and self.made < self.heals_after:
            raise RuntimeError("CUDA_ERROR_LAUNCH_FAILED")


class Clock(threading.Event):
    """A stop event whose waits take no time and are recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout or 0.0)
        return self.is_set()


@pytest.fixture
def stop() -> Clock:
    return Clock()


@pytest.fixture
def trial() -> Trial:
    return Trial()


@pytest.fixture
def worker(stop: Clock) -> CircuitBreaker:
    return CircuitBreaker(stop)


def test_a_fit_worker_waits_for_nothing_and_tries_nothing(worker: CircuitBreaker, stop: Clock, trial: Trial) -> None:
    worker.wait(trial)
    worker.record_success()
    assert (stop.waits, trial.made) == ([], 0)


def test_failures_are_counted_against_an_image_where_another_can_be_read(
    worker: CircuitBreaker, stop: Clock, trial: Trial
) -> None:
    assert worker.record_failure(ValueError(), None, trial)
    assert worker.record_failure(ValueError(), 7, trial)
    worker.wait(trial)
    assert (stop.waits, trial.made) == ([], 2)


def test_no_failure_is_counted_where_no_image_can_be_read_and_the_worker_waits_longer_and_longer(
    worker: CircuitBreaker, stop: Clock, trial: Trial
) -> None:
    trial.ill, trial.heals_after = True, 10
    assert not worker.record_failure(ValueError(), 7, trial)
    worker.wait(trial)
    assert stop.waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    stop.waits.clear()
    worker.wait(trial)
    assert stop.waits == []  # it is fit again


@pytest.mark.parametrize("error", [DeviceOutOfMemory("full"), MemoryError(), OSError(11, "no more processes")])
def test_what_is_of_the_machine_is_no_images_fault(
    worker: CircuitBreaker, stop: Clock, trial: Trial, error: Exception
) -> None:
    assert not worker.record_failure(error, 7, trial)
    worker.wait(trial)
    assert stop.waits == [1]


def test_where_different_images_end_in_an_error_one_after_the_other_it_is_not_the_images(
    worker: CircuitBreaker, stop: Clock, trial: Trial
) -> None:
    said = [worker.record_failure(ValueError(), image, trial) for image in (1, 1, 2, 3)]
    assert said == [True, True, True, False]
    worker.wait(trial)
    assert worker.record_failure(ValueError(), None, trial)  # good ones among them must be read, to tell
    assert not worker.record_failure(ValueError(), 1, trial)  # still not: none was read since
    worker.wait(trial)
    assert stop.waits == [1, 2]
    worker.record_success()
    assert worker.record_failure(ValueError(), 1, trial)
    worker.record_failure(DeviceOutOfMemory("full"), 1, trial)
    worker.wait(trial)
    assert stop.waits == [1, 2, 1]


def test_errors_of_images_read_together_say_nothing_of_the_worker(worker: CircuitBreaker, trial: Trial) -> None:
    assert all(worker.record_failure(ValueError(), None, trial) for _ in range(20))


def test_many_threads_wait_for_one_that_tries(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit_breaker, "FIRST_PROBE_DELAY", 0.01)
    worker = CircuitBreaker(threading.Event())
    trial.ill, trial.heals_after = True, 5
    worker.record_failure(ValueError(), None, trial)
    with ThreadPoolExecutor(4) as pool:
        for waiting in [pool.submit(worker.wait, trial) for _ in range(4)]:
            waiting.result(PATIENCE)
    assert trial.made == 5


def test_shutdown_ends_the_wait(trial: Trial) -> None:
    stop = threading.Event()
    worker = CircuitBreaker(stop)
    trial.ill = True
    worker.record_failure(ValueError(), None, trial)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(worker.wait, trial) for _ in range(2)]
        stop.set()
        for one in waiting:
            with pytest.raises(ShuttingDown):
                one.result(PATIENCE)
