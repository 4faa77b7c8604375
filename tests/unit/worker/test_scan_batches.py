"""celery-batches, counting images: with a real Celery app and prefetch count, and a fake pool and timer."""

import threading
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from kombu.common import QoS

from pneumowatch.errors import ModelError, ShuttingDown
from pneumowatch.queue import READ_SCANS_TASK
from worker.tasks import register_task

BATCH = 8
AHEAD = 4 * BATCH


class FakeProcessor:
    """A processor that records its permits, and fails when told to."""

    def __init__(self) -> None:
        self.permits: list[int] = []
        self.error: BaseException | None = None

    def process(self, permits: int) -> None:
        self.permits.append(permits)
        if self.error:
            raise self.error


class Pool:
    """Celery's pool, which runs what it was given when `work` is called."""

    def __init__(self) -> None:
        self.given: list[tuple[Callable[..., Any], Any, Any]] = []

    def apply_async(self, target: Any, args: Any, accept_callback: Any, callback: Any) -> None:
        self.given.append((target, args, callback))

    def work(self) -> None:
        given, self.given = self.given, []
        for target, args, callback in given:
            callback(target(*args))


class Timer:
    """The timer of the consumer's connection: repeated calls are made by `tick`."""

    def __init__(self) -> None:
        self.calls: list[tuple[SimpleNamespace, Callable[[], None]]] = []

    def call_repeatedly(self, seconds: float, function: Callable[[], None]) -> SimpleNamespace:
        entry = SimpleNamespace(cancelled=False)
        entry.cancel = lambda: setattr(entry, "cancelled", True)
        self.calls.append((entry, function))
        return entry

    def tick(self) -> None:
        for entry, function in list(self.calls):
            if not entry.cancelled:
                function()

    @property
    def running(self) -> int:
        return sum(not entry.cancelled for entry, _ in self.calls)


class Worker:
    """One task of one app, and the consumer it is connected to."""

    def __init__(self) -> None:
        self.app = Celery("test", broker="memory://", set_as_current=False)
        self.app.conf.task_acks_late = True
        self.processor, self.pool = FakeProcessor(), Pool()
        register_task(self.app, self.processor, BATCH)  # type: ignore[arg-type]
        self.task = self.app.tasks[READ_SCANS_TASK]
        self.qos = QoS(lambda prefetch_count: None, AHEAD)
        self.acknowledged: list[Any] = []
        self.reconnect()

    def reconnect(self) -> None:
        """A new connection comes with a new timer; the old one's never ticks again."""
        self.timer = Timer()
        self.consumer = SimpleNamespace(
            pool=self.pool, hostname="h", connection_errors=(), event_dispatcher=None, timer=self.timer, qos=self.qos
        )
        self.consumer.hub = object()  # an event loop, as Redis has and the in-process transport has not
        self.handle = self.task.Strategy(self.task, self.app, self.consumer)

    def message(self, args: Sequence[Any]) -> None:
        number = f"m{len(self.acknowledged)}"
        message = SimpleNamespace(
            body=(args, {}, {}),
            payload=(args, {}, {}),
            headers={"id": number, "task": READ_SCANS_TASK, "lang": "py", "root_id": number},
            delivery_info={"routing_key": "films"},
            properties={},
            content_type="application/json",
            content_encoding="utf-8",
            delivery_tag=number,
            ack_log_error=lambda *_: self.acknowledged.append(("at once", args)),
        )
        self.handle(message, None, lambda *_: self.acknowledged.append(args), lambda *_: None, set())

    def images(self, count: int) -> None:
        self.message([list(range(count))])


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def busy(worker: Worker) -> Worker:
    """A worker that is reading one image, so that others are gathered."""
    worker.images(1)
    assert len(worker.pool.given) == 1
    return worker


def test_a_lone_image_is_read_at_once(worker: Worker) -> None:
    worker.images(1)
    worker.pool.work()
    assert worker.processor.permits == [1]
    assert len(worker.acknowledged) == 1


def test_images_and_not_messages_fill_a_batch(busy: Worker) -> None:
    for count in (3, 3):
        busy.images(count)
    assert len(busy.pool.given) == 1
    busy.images(2)  # makes eight
    assert len(busy.pool.given) == 2
    busy.images(BATCH)  # a batch by itself
    assert len(busy.pool.given) == 3
    busy.pool.work()
    assert busy.processor.permits == [1, 8, 8]
    assert len(busy.acknowledged) == 5


def test_what_does_not_fill_a_batch_is_flushed_by_the_timer(busy: Worker) -> None:
    busy.images(2)
    busy.images(3)
    busy.timer.tick()
    busy.pool.work()
    assert busy.processor.permits == [1, 5]


def test_nothing_is_acknowledged_before_it_was_read(busy: Worker) -> None:
    busy.images(BATCH)
    assert busy.acknowledged == []
    busy.pool.work()
    assert len(busy.acknowledged) == 2


def test_a_loop_that_blocks_is_not_left_to_acknowledge(worker: Worker) -> None:
    """The in-process transport's loop sleeps for two seconds while the prefetch is full: acknowledgement frees it."""
    worker.consumer.hub = None
    worker.images(1)
    worker.pool.work()
    assert worker.acknowledged == [("at once", [[0]])]


def test_the_timer_ends_when_nothing_waits(busy: Worker) -> None:
    busy.images(2)
    assert busy.timer.running == 1
    for _ in range(3):
        busy.timer.tick()
        busy.pool.work()
    assert busy.timer.running == 0


def test_nothing_is_handed_to_a_pool_that_has_ended(busy: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The timer of the in-process transport ticks on after it. Unread messages stay unacknowledged."""
    busy.images(2)
    busy.task.close()
    busy.pool.work()

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("cannot schedule new futures after shutdown")

    monkeypatch.setattr(busy.pool, "apply_async", refuse)
    busy.timer.tick()
    busy.images(BATCH)
    assert busy.processor.permits == [1]
    assert len(busy.acknowledged) == 1
    assert busy.task.buffered == 2


def test_after_a_reconnect_lone_messages_are_flushed(busy: Worker) -> None:
    """celery-batches keeps the dead connection's timer, and nothing is ever flushed again."""
    busy.images(1)
    assert busy.timer.running == 1
    busy.reconnect()
    busy.images(1)
    assert busy.timer.running == 1
    busy.timer.tick()
    busy.pool.work()
    assert sum(busy.processor.permits) == 3


def test_what_waited_over_a_reconnect_is_flushed_without_another_message(busy: Worker) -> None:
    busy.images(2)
    busy.reconnect()
    busy.pool.work()
    assert sum(busy.processor.permits) == 3


def test_a_new_connection_is_not_given_what_the_old_one_lent(worker: Worker) -> None:
    worker.images(BATCH)
    worker.qos = QoS(lambda prefetch_count: None, AHEAD)
    worker.reconnect()
    worker.pool.work()
    assert worker.qos.value == AHEAD


def test_nothing_is_acknowledged_once_images_are_left_to_others(worker: Worker) -> None:
    worker.images(2)
    worker.processor.error = ShuttingDown("x")
    worker.pool.work()
    assert worker.acknowledged == []


def test_unacknowledged_images_are_taken_off_the_prefetch_count(worker: Worker) -> None:
    worker.images(1)
    assert worker.qos.value == AHEAD
    worker.images(6)
    assert worker.qos.value == AHEAD - 5
    worker.timer.tick()
    worker.pool.work()
    assert worker.qos.value == AHEAD


def test_the_prefetch_count_does_not_grow_by_what_it_could_not_give(worker: Worker) -> None:
    for _ in range(5):
        for count in (7, 8, 8, 8, 8, 8, 1):  # the count stops at one and is not taken below
            worker.images(count)
        assert worker.qos.value == 1
        worker.timer.tick()
        worker.pool.work()
        assert worker.qos.value == AHEAD


@pytest.mark.parametrize("error", [ModelError("x"), RuntimeError("x"), MemoryError(), KeyError(3)])
def test_no_error_of_the_processor_escapes(
    worker: Worker, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """celery-batches would log it as its own, and acknowledge the batch all the same."""
    worker.processor.error = error
    worker.images(3)
    worker.pool.work()
    assert worker.processor.permits == [3]
    assert not [record for record in caplog.records if record.name.startswith(("celery", "celery_batches"))]
    worker.processor.error = None
    worker.images(2)
    worker.pool.work()
    assert worker.processor.permits == [3, 2]


@pytest.mark.parametrize("args", [[], [5], [None], [[]], ["12"], [{}]], ids=repr)
def test_a_message_of_another_make_upsets_nothing(
    busy: Worker, args: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    busy.message(args)
    busy.images(4)
    busy.timer.tick()
    busy.pool.work()
    assert not caplog.records
    assert sum(busy.processor.permits) >= 5
    assert len(busy.acknowledged) == 3
    assert busy.qos.value == AHEAD


def test_messages_from_a_thread_and_a_timer_from_another(worker: Worker) -> None:
    """The in-process transport's timer is a thread of its own."""
    stop = threading.Event()

    def tick() -> None:
        while not stop.is_set():
            worker.timer.tick()

    ticking = threading.Thread(target=tick)
    ticking.start()
    for count in [1, 3, 8, 2] * 50:
        worker.images(count)
        if count == 8:
            worker.pool.work()
    stop.set()
    ticking.join()
    worker.timer.tick()
    worker.pool.work()
    assert sum(worker.processor.permits) == 14 * 50
    assert len(worker.acknowledged) == 200
    assert worker.qos.value == AHEAD
