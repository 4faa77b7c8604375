"""Start a Redis and a PostgreSQL for a benchmark, by `services`, with the tables of this version."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cli.bench.processes import ResourceUsage, resource_usage
from db import schema
from db.session import Database

sys.path.append(str(Path(__file__).parents[1]))
from support.query_plans import explain as explain
from support.services import Server, fresh_database, postgres_server, redis_server


@dataclass(frozen=True)
class Servers:
    redis: Server
    postgres: Server
    database_url: str

    @property
    def broker_url(self) -> str:
        return self.redis.url

    def costs(self) -> dict[str, ResourceUsage]:
        """Return the resource usage of each server, including the processes it started."""
        return {name: _cost(server) for name, server in (("Redis", self.redis), ("PostgreSQL", self.postgres))}


@contextmanager
def servers() -> Iterator[Servers]:
    """Start both servers, with a migrated and empty database."""
    with redis_server() as redis, postgres_server() as postgres, fresh_database(postgres.url) as url:
        database = Database(url)
        schema.upgrade(database)
        database.close()
        yield Servers(redis, postgres, url)


def _cost(server: Server) -> ResourceUsage:
    return resource_usage(server.process.pid) if server.process else ResourceUsage()
