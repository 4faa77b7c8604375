"""The announcer on a real Redis: what it sends, and which messages it counts as unacknowledged."""

import base64
import json
import time
from collections.abc import Iterator

import pytest
import redis
from celery import Celery
from support.services import Server

from pneumowatch.errors import BrokerUnavailable
from pneumowatch.queue import READ_SCANS_TASK, SCANS_QUEUE, Announcer, make_celery_app
from pneumowatch.settings import Settings

LEASE = 20
BATCH = 4


def given(redis: Server) -> Settings:
    return Settings(broker_url=redis.url, lease_seconds=LEASE, batch_size=BATCH)


@pytest.fixture
def app(own_redis: Server) -> Iterator[Celery]:
    made = make_celery_app(given(own_redis))
    yield made
    made.close()


@pytest.fixture
def announcer(app: Celery, own_redis: Server) -> Announcer:
    return Announcer(app, given(own_redis))


@pytest.fixture
def broker(own_redis: Server) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(own_redis.url) as client:
        yield client


def test_ids_travel_in_messages_of_at_most_a_batch(announcer: Announcer, broker: redis.Redis) -> None:
    assert announcer.outstanding() == 0
    announcer.announce(range(1, 11))
    announcer.announce([])
    messages = [json.loads(message) for message in broker.lrange(SCANS_QUEUE, 0, -1)[::-1]]  # type: ignore[index,union-attr]
    permits = [json.loads(base64.b64decode(message["body"]))[0] for message in messages]
    assert permits == [[[1, 2, 3, 4]], [[5, 6, 7, 8]], [[9, 10]]]
    assert {message["headers"]["task"] for message in messages} == {READ_SCANS_TASK}
    assert {message["content-type"] for message in messages} == {"application/json"}
    assert announcer.outstanding() == 3


def take(app: Celery, announcer: Announcer) -> None:
    """Receive a message as a worker that never acknowledges it."""
    announcer.announce([1])
    with app.connection_for_read() as connection:
        channel = connection.channel()
        channel.qos.restore_at_shutdown = False
        assert channel.basic_get(SCANS_QUEUE) is not None


def test_a_message_that_is_being_worked_at_is_held(app: Celery, announcer: Announcer, broker: redis.Redis) -> None:
    take(app, announcer)
    assert broker.llen(SCANS_QUEUE) == 0
    assert announcer.outstanding() == 1


def test_what_a_worker_took_longer_than_a_lease_ago_is_held_no_more(
    app: Celery, announcer: Announcer, broker: redis.Redis
) -> None:
    """The worker is dead; its scans must be announced again, and not wait until the broker redelivers its messages."""
    take(app, announcer)
    (tag,) = broker.zrange("unacked_index", 0, -1)  # type: ignore[misc]
    broker.zadd("unacked_index", {tag: time.time() - LEASE - 1})
    assert announcer.outstanding() == 0


def test_no_broker_is_said_and_soon(announcer: Announcer, own_redis: Server) -> None:
    announcer.announce([1])
    own_redis.kill()
    started = time.monotonic()
    with pytest.raises(BrokerUnavailable):
        announcer.announce([2])
    with pytest.raises(BrokerUnavailable):
        announcer.outstanding()
    assert time.monotonic() - started < 15
    own_redis.start()
    announcer.announce([3])
    assert announcer.outstanding() == 1  # this Redis keeps nothing over a restart
