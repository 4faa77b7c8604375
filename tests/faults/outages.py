"""Services that go and come back: the broker and the database."""

import signal

import redis
from services import Server, connect

from faults.rig import Deployed
from faults.stage import Stage


def redis_flushed(stage: Stage[Deployed]) -> None:
    """All messages are gone, waiting and unacknowledged; films are announced again once nothing is left on it."""
    stage.surge(0.1)
    stage.flow()
    stage.wait_for(0.05)
    with redis.Redis.from_url(stage.rig.redis.url) as client:
        client.flushall()
    stage.over()


def redis_restarted(stage: Stage[Deployed]) -> None:
    """It comes back empty. Then one film alone: a worker that is connected again and consumes nothing shows here."""
    _gone(stage, stage.rig.redis, 1)


def redis_gone(stage: Stage[Deployed]) -> None:
    """Films go on arriving; they wait in the database."""
    _gone(stage, stage.rig.redis, stage.pace.outage)


def redis_hangs(stage: Stage[Deployed]) -> None:
    """Connected, and no answer to anything: the process is halted."""
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
    """It crashes and recovers from its log."""
    _gone(stage, stage.rig.postgres, 1, signal.SIGQUIT)


def postgres_gone(stage: Stage[Deployed]) -> None:
    """Nothing is taken off the queue meanwhile, and nothing that was read is forgotten."""
    _gone(stage, stage.rig.postgres, stage.pace.outage, signal.SIGQUIT)


def connections_cut(stage: Stage[Deployed]) -> None:
    """Every connection to the database is broken, again and again, in the middle of whatever it was doing."""
    stage.surge(0.1)
    stage.flow()
    cut = 0
    for share in (0.05, 0.2, 0.35, 0.5, 0.65):
        stage.wait_for(share)
        with connect(stage.rig.postgres.url) as server:
            ended = server.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = 'films'"
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
