"""The services that other tests use."""

import psycopg
import pytest
import redis
from support.services import Server, connect, fresh_database, probe_redis


def test_redis_answers(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.ping()


def test_postgres_database_is_fresh(postgres_database: str) -> None:
    with connect(postgres_database) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        tables = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
    assert tables == (0,)


def test_postgres_database_is_dropped_under_a_connection(postgres_url: str) -> None:
    with fresh_database(postgres_url) as url:
        left_open = connect(url)
    with left_open, pytest.raises(psycopg.OperationalError):
        left_open.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        connect(url)


def test_redis_outage_and_return_on_the_same_url(own_redis: Server) -> None:
    own_redis.kill()
    with pytest.raises(redis.ConnectionError):
        probe_redis(own_redis.url)
    own_redis.start()
    probe_redis(own_redis.url)
