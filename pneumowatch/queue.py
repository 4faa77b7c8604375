"""The Celery app, and the messages that announce waiting scans to the workers.

The database is the source of truth, the queue only wakes workers: a message with k ids permits a worker to claim any k
waiting scans. Messages are JSON, carry only ids, and may be lost or duplicated without harm.
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

SCANS_QUEUE: Final = "films"
READ_SCANS_TASK: Final = "pneumowatch.read_scans"
TRAINING_QUEUE: Final = "training"  # a message asks a trainer to check whether a retraining is due
RETRAIN_TASK: Final = "pneumowatch.retrain"
# Celery would write these into each message for its own logs, which takes longer than sending it.
NO_REPRS: Final = {"argsrepr": "", "kwargsrepr": ""}
POLLING_INTERVAL_SECONDS: Final = 0.01  # the in-process transport polls once a second by default
BROKER_TIMEOUT_SECONDS: Final = 5


def make_celery_app(settings: Settings) -> Celery:
    """Return the Celery app for these settings, without connecting to the broker."""
    app = Celery("pneumowatch", broker=settings.broker_url, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=True,
        task_default_queue=SCANS_QUEUE,
        task_publish_retry=False,  # the sweep announces again; a sender must not hang
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
    """Prevent Celery from setting up logging, as it does where nothing handles this signal: `pneumowatch.logs` did."""


def _transport_options(settings: Settings) -> dict[str, Any]:
    if settings.embedded_queue:
        return {"polling_interval": POLLING_INTERVAL_SECONDS}
    return {
        # an unacknowledged message is redelivered after a lease, like the rows that it announced
        "visibility_timeout": settings.lease_seconds,
        "socket_connect_timeout": BROKER_TIMEOUT_SECONDS,
        "socket_timeout": 4 * BROKER_TIMEOUT_SECONDS,  # longer than the blocking read of the worker's loop
        "socket_keepalive": True,
        "health_check_interval": BROKER_TIMEOUT_SECONDS,
    }


class Announcer:
    """Announces scans: one message for each batch of at most `batch_size` ids."""

    def __init__(self, app: Celery, settings: Settings) -> None:
        self._app = app
        self._batch_size = settings.batch_size
        self._lease = settings.lease_seconds

    def announce(self, ids: Sequence[int]) -> None:
        """Send the messages for these scans. Raises BrokerUnavailable where the broker does not accept them."""
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
        """Count the messages on the broker, waiting or not yet acknowledged. Raises BrokerUnavailable."""
        return self._queue_length(SCANS_QUEUE, self._unacknowledged)

    def waiting(self) -> int:
        """Count the messages that no worker has received yet. Raises BrokerUnavailable."""
        return self._queue_length(SCANS_QUEUE)

    def announce_training(self) -> None:
        """Ask the trainers to check whether a retraining is due, unless such a message still waits in their queue.

        Raises BrokerUnavailable.
        """
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
        """Count the messages that a worker has received within the last lease and may still be processing.

        Messages of a dead worker stay on Redis for some minutes, until the transport restores them: they must not keep
        their scans waiting. Nor must messages from further in the future than a lease, after a clock was set back.
        """
        now = time.time()
        return int(channel.client.zcount(channel.unacked_index_key, now - self._lease, now + self._lease))


def component_name(component: str) -> str:
    """Return the name under which a component acts in the database: its kind and machine."""
    return f"{component}@{socket.gethostname()}"
