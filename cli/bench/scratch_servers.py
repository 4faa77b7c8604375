"""Scratch space on shared servers: a new PostgreSQL database, and an empty Redis database."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError

from db import schema
from db.session import Database
from pneumowatch.errors import BrokerUnavailable, DatabaseUnavailable, SettingsError
from pneumowatch.settings import Settings

REDIS_DATABASES: Final = range(15, 0, -1)  # of Redis's usual sixteen; 0 is the default, which others use


@dataclass(frozen=True)
class ScratchServers:
    database_url: str
    broker_url: str


@contextmanager
def provision_servers(settings: Settings) -> Iterator[ScratchServers]:
    """Provide a migrated, empty database and an empty queue; drop and flush them on exit.

    Raises SettingsError where the servers are not configured, or give no space.
    """
    if settings.embedded_queue or not settings.database_url.startswith("postgresql"):
        raise SettingsError(
            "To measure a deployment, PNEUMOWATCH_DATABASE_URL must name PostgreSQL and PNEUMOWATCH_BROKER_URL Redis."
        )
    with _scratch_database(settings.database_url) as database_url, _scratch_broker(settings.broker_url) as broker_url:
        database = Database(database_url)
        schema.upgrade(database)
        database.close()
        yield ScratchServers(database_url, broker_url)


@contextmanager
def _scratch_database(url: str) -> Iterator[str]:
    name = f"pneumowatch_bench_{secrets.token_hex(4)}"
    server = create_engine(make_url(url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    try:
        _execute(server, f"CREATE DATABASE {name}")
    except DBAPIError as error:
        if error.connection_invalidated or "permission" not in str(error.orig):
            raise DatabaseUnavailable(f"The database server does not answer ({type(error.orig).__name__}).") from error
        raise SettingsError(
            "The database user may not create a database to measure in; give it CREATEDB, or set a user who has it."
        ) from error
    try:
        yield make_url(url).set(database=name).render_as_string(hide_password=False)
    finally:
        _execute(server, f"DROP DATABASE {name} WITH (FORCE)")
        server.dispose()


def _execute(server: Engine, statement: str) -> None:
    with server.connect() as connection:
        connection.execute(text(statement))


@contextmanager
def _scratch_broker(url: str) -> Iterator[str]:
    try:
        number = next((number for number in REDIS_DATABASES if _client(url, number).dbsize() == 0), None)
    except RedisError as error:
        raise BrokerUnavailable("The Redis server does not answer, or has only one database.") from error
    if number is None:
        raise SettingsError("None of the Redis databases 1 to 15 is empty; empty one of them to measure in.")
    try:
        yield make_url(url).set(database=str(number)).render_as_string(hide_password=False)
    finally:
        _client(url, number).flushdb()


def _client(url: str, number: int) -> Redis:
    client = Redis.from_url(url, socket_timeout=5)
    client.connection_pool.connection_kwargs["db"] = number
    return client
