"""Faults of the broker and the database: outages and their end."""

import signal

import redis
from support.services import Server, connect

from faults.rig import Deployed
from faults.scenario import Scenario


def redis_flushed(scenario: Scenario[Deployed]) -> None:
    """Delete all messages, waiting and unacknowledged; scans are announced again once Redis holds none."""
    scenario.surge(0.1)
    scenario.flow()
    scenario.wait_for(0.05)
    with redis.Redis.from_url(scenario.rig.redis.url) as client:
        client.flushall()
    scenario.over()


def redis_restarted(scenario: Scenario[Deployed]) -> None:
    """Restart Redis empty, then drop a single image, which detects a worker that reconnects but consumes nothing."""
    _gone(scenario, scenario.rig.redis, 1)


def redis_gone(scenario: Scenario[Deployed]) -> None:
    """Stop Redis while images arrive; their scans wait in the database."""
    _gone(scenario, scenario.rig.redis, scenario.pace.outage)


def redis_hangs(scenario: Scenario[Deployed]) -> None:
    """Halt the process of Redis, so that it keeps its connections and answers nothing."""
    server = scenario.rig.redis
    assert server.process is not None
    scenario.surge(0.1)
    scenario.flow(2 * scenario.pace.outage)
    scenario.wait_for(0.05)
    server.process.send_signal(signal.SIGSTOP)
    try:
        scenario.wait_out(scenario.pace.outage)
    finally:
        server.process.send_signal(signal.SIGCONT)
    scenario.over()
    scenario.lone_image()


def postgres_restarted(scenario: Scenario[Deployed]) -> None:
    """Stop PostgreSQL by a crash, from which it recovers with its log."""
    _gone(scenario, scenario.rig.postgres, 1, signal.SIGQUIT)


def postgres_gone(scenario: Scenario[Deployed]) -> None:
    """Stop PostgreSQL: no message is lost from the queue in the meantime, and no result."""
    _gone(scenario, scenario.rig.postgres, scenario.pace.outage, signal.SIGQUIT)


def connections_cut(scenario: Scenario[Deployed]) -> None:
    """Cut every connection to the database several times, during whatever it is doing."""
    scenario.surge(0.1)
    scenario.flow()
    cut = 0
    for share in (0.05, 0.2, 0.35, 0.5, 0.65):
        scenario.wait_for(share)
        with connect(scenario.rig.postgres.url) as server:
            ended = server.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = 'ledger'"
            ).fetchall()
        cut += ended[0][0]
    scenario.over()
    scenario.note = f"{cut} connections"


def _gone(scenario: Scenario[Deployed], server: Server, seconds: float, how: signal.Signals = signal.SIGKILL) -> None:
    scenario.surge(0.1)
    scenario.flow(max(scenario.pace.flow, 2 * seconds))
    scenario.wait_for(0.05)
    server.kill(how)
    scenario.wait_out(seconds)
    server.start()
    scenario.over()
    scenario.lone_image()
