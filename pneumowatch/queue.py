"""The Celery app and the doorbell: how a waiting scan is announced to the workers.

The database is the truth, the queue only rings: a message of k ids is a licence to claim any k waiting scans. Messages
are JSON, carry ids alone, and may be lost or doubled without harm.
"""

import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from celery import Celery, signals
from kombu.exceptions import OperationalError as KombuError
from redis.exceptions import RedisError

from pneumowatch.errors import BrokerUnavailable
from pneumowatch.settings import Settings

SCANS_QUEUE: Final = "films"  # the queue
READ_SCANS_TASK: Final = "pneumowatch.read_scans"  # the task
TRAINING_QUEUE: Final = (
    "training"  # the queue of those who train: a message says that it is time to look whether one is due
)
RETRAIN_TASK: Final = "pneumowatch.retrain"  # the task
# what Celery would write into each message for its own logs: it takes longer than sending it
NO_REPRS: Final = {"argsrepr": "", "kwargsrepr": ""}
POLLING_INTERVAL_SECONDS: Final = 0.01  # the in-process transport looks once a second by default
BROKER_TIMEOUT_SECONDS: Final = 5


def make_celery_app(settings: Settings) -> Celery:
    """The Celery app for these settings; creating it connects to nothing."""
    app = Celery("pneumowatch", broker=settings.broker_url, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=True,
        task_default_queue=SCANS_QUEUE,
        task_publish_retry=False,  # the sweep rings again; a sender must not hang
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options=_transport_options(settings),
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
    )
    return app


@signals.setup_logging.connect(weak=False)
def _leave_logging_alone(**_: Any) -> None:
    """Celery sets up logging itself unless somebody answers this signal; `pneumowatch.logs` has done it."""


def _transport_options(settings: Settings) -> dict[str, Any]:
    if settings.embedded_queue:
        return {"polling_interval": POLLING_INTERVAL_SECONDS}
    return {
        # a message unacknowledged for a lease comes again, like the rows it announced
        "visibility_timeout": settings.lease_seconds,
        "socket_connect_timeout": BROKER_TIMEOUT_SECONDS,
        "socket_timeout": 4 * BROKER_TIMEOUT_SECONDS,  # longer than the blocking read of the worker's loop
        "socket_keepalive": True,
        "health_check_interval": BROKER_TIMEOUT_SECONDS,
    }


class Announcer:
    """Announces scans: as many messages as batches, each of at most `batch_size` ids."""

    def __init__(self, app: Celery, settings: Settings) -> None:
        self._app = app
        self._batch_size = settings.batch_size
        self._lease = settings.lease_seconds

    def announce(self, ids: Sequence[int]) -> None:
        """Raises BrokerUnavailable where the broker does not take the messages."""
        try:
            with self._app.producer_pool.acquire(block=True, timeout=BROKER_TIMEOUT_SECONDS) as producer:
                for start in range(0, len(ids), self._batch_size):
                    permits = list(ids[start : start + self._batch_size])
                    self._app.send_task(
                        READ_SCANS_TASK, args=[permits], queue=SCANS_QUEUE, producer=producer, retry=False, **NO_REPRS
                    )
        except (KombuError, RedisError, OSError) as error:
            raise BrokerUnavailable("The message broker does not answer.") from error

    def outstanding(self) -> int:
        """Messages on the broker, waiting or not yet acknowledged. Raises BrokerUnavailable."""
        return self._queue_length(SCANS_QUEUE, self._unacknowledged)

    def waiting(self) -> int:
        """Messages that no worker has taken yet. Raises BrokerUnavailable."""
        return self._queue_length(SCANS_QUEUE)

    def announce_training(self) -> None:
        """Tell whoever works on the training queue to look whether a training is due, unless somebody has and none of
        them has heard it yet. Raises BrokerUnavailable."""
        if self._queue_length(TRAINING_QUEUE):
            return
        try:
            self._app.send_task(RETRAIN_TASK, queue=TRAINING_QUEUE, retry=False, **NO_REPRS)
        except (KombuError, RedisError, OSError) as error:
            raise BrokerUnavailable("The message broker does not answer.") from error

    def _queue_length(self, queue: str, extra: Callable[[Any], int] = lambda channel: 0) -> int:
        try:
            with self._app.connection_for_write() as connection:
                channel = connection.default_channel
                if hasattr(channel, "client"):  # Redis
                    return int(channel.client.llen(queue)) + extra(channel)
                return int(channel._size(queue)) if queue in channel.queues else 0
        except (KombuError, RedisError, OSError) as error:
            raise BrokerUnavailable("The message broker does not answer.") from error

    def _unacknowledged(self, channel: Any) -> int:
        """Messages that a worker has taken and may still be reading: those of a dead one stay on Redis until its
        transport looks, some minutes later, and must not keep their films waiting. Nor must those that were taken in
        the future, before a clock was set back."""
        now = time.time()
        return int(channel.client.zcount(channel.unacked_index_key, now - self._lease, now + self._lease))


def component_name(component: str) -> str:
    """How a part signs what it does in the database: its kind and machine."""
    return f"{component}@{socket.gethostname()}"
