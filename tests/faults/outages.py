"""Faults of the broker and the database: outages and their end."""

import signal

import redis
from services import Server, connect

from faults.rig import Deployed
from faults.stage import Stage


def redis_flushed(stage: Stage[Deployed]) -> None:
    """Delete all messages, waiting and unacknowledged; scans are announced again once Redis holds none."""
    stage.surge(0.1)
    stage.flow()
    stage.wait_for(0.05)
    with redis.Redis.from_url(stage.rig.redis.url) as client:
        client.flushall()
    stage.over()


def redis_restarted(stage: Stage[Deployed]) -> None:
    """Restart Redis empty, then drop a single image, which detects a worker that reconnects but consumes nothing."""
    _gone(stage, stage.rig.redis, 1)


def redis_gone(stage: Stage[Deployed]) -> None:
    """Stop Redis while images arrive; their scans wait in the database."""
    _gone(stage, stage.rig.redis, stage.pace.outage)


def redis_hangs(stage: Stage[Deployed]) -> None:
    """Halt the process of Redis, so that it keeps its connections and answers nothing."""
    server = stage.rig.redis
    assert server.process is not None
    stage.surge(0.1)
    stage.flow(2 * stage.pace.outage)
    stage.wait_for(0.05)
    server.process.send_signal(signal.SIGSTOP)
    try:
        stage.wait_out(stage.pace.outage)
    finally:
        server.process.send_signal(signal.SIGCONT)
    stage.over()
    stage.lone_film()


def postgres_restarted(stage: Stage[Deployed]) -> None:
    """Crash PostgreSQL, which recovers from its log."""
    _gone(stage, stage.rig.postgres, 1, signal.SIGQUIT)


def postgres_gone(stage: Stage[Deployed]) -> None:
    """Stop PostgreSQL: no message is lost from the queue in the meantime, and no result."""
    _gone(stage, stage.rig.postgres, stage.pace.outage, signal.SIGQUIT)


def connections_cut(stage: Stage[Deployed]) -> None:
    """Cut every connection to the database several times, during whatever it is doing."""
    stage.surge(0.1)
    stage.flow()
    cut = 0
    for share in (0.05, 0.2, 0.35, 0.5, 0.65):
        stage.wait_for(share)
        with connect(stage.rig.postgres.url) as server:
            ended = server.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = 'ledger'"
            ).fetchall()
        cut += ended[0][0]
    stage.over()
    stage.note = f"{cut} connections"


def _gone(stage: Stage[Deployed], server: Server, seconds: float, how: signal.Signals = signal.SIGKILL) -> None:
    stage.surge(0.1)
    stage.flow(max(stage.pace.flow, 2 * seconds))
    stage.wait_for(0.05)
    server.kill(how)
    stage.wait_out(seconds)
    server.start()
    stage.over()
    stage.lone_film()
