"""Faults of processes: killed or stopped while they hold images."""

import signal

import sabotage
from programs import PATIENCE

from faults.rig import SABOTAGED, WORKERS, Deployed, Embedded, Rig, kill_quietly
from faults.stage import LEFT_SECONDS, Stage


def worker_killed(stage: Stage[Deployed]) -> None:
    """Kill a worker (SIGKILL) while it processes; after a lease the other one processes what it held or had fetched."""
    stage.surge(0.1)
    stage.flow()
    victim, held = stage.kill_one(*WORKERS)
    stage.over()
    stage.note = f"it held {held} images"
    stage.rig.restart(victim)
    stage.rig.ready(victim)


def workers_killed_again_and_again(stage: Stage[Deployed]) -> None:
    """Kill one of two ready workers while it holds images; repeat when its replacement is ready."""
    held = []
    for _ in range(stage.pace.kills):
        stage.surge(1 / stage.pace.kills)
        victim, films = stage.kill_one(*WORKERS)
        held.append(films)
        stage.rig.restart(victim)
        stage.rig.ready(victim)
    stage.over()
    stage.flow(1)
    stage.note = f"{len(held)} kills, each of a worker that held {min(held)} to {max(held)} images"


def worker_drained(stage: Stage[Deployed]) -> None:
    """Stop a worker (SIGTERM) under load: it ends by itself with 0, and no attempt is counted."""
    stage.surge(0.1)
    stage.flow()
    name, held = stage.catch(*WORKERS)
    part = stage.rig.parts[name]
    part.process.terminate()
    part.process.send_signal(signal.SIGCONT)
    assert part.process.wait(PATIENCE) == 0, part.said()
    assert stage.rig.held_by(part.process.pid) == 0
    stage.over()
    stage.rig.restart(name)
    stage.rig.ready(name)
    stage.wait_for_all()
    counted = "SELECT count(*) FROM scans WHERE lost_leases > 0 AND path >= %s AND path < %s"
    assert stage.rig.ask(counted, f"{stage.name}/", f"{stage.name}/~") == [(0,)]
    stage.note = f"it held {held} images; exit code 0, no attempt counted"


def decoder_killed(stage: Stage[Rig]) -> None:
    """Kill the decoding child processes of one worker, one after another."""
    name = next(name for name in stage.rig.parts if name in (*WORKERS, "up"))
    stage.surge(0.1)
    stage.flow()
    killed = 0
    for share in (0.05, 0.15, 0.3, 0.45):
        stage.wait_for(share)
        killed += sum(map(kill_quietly, stage.rig.decoders(name)))
    stage.over()
    assert killed
    stage.note = f"{killed} killed"


def film_that_kills(stage: Stage[Deployed]) -> None:
    """Drop an image that kills its worker: it is tried again alone, then failed. The rest of its batch has results."""
    rig = stage.rig
    for name in WORKERS:
        rig.parts[name].terminate()
        rig.restart(name, command=SABOTAGED)
    rig.ready(*WORKERS)
    stage.surge(0.1)
    stage.drop(sabotage.DOWN)
    stage.expected_failed = 1
    stage.flow()
    kills = 0
    while rig.wait_until(lambda: rig.crashed() or _failed(stage), LEFT_SECONDS) and rig.crashed():
        for name in rig.crashed():
            assert rig.parts[name].process.returncode == -signal.SIGKILL, rig.parts[name].said()
            kills += 1
            rig.restart(name, command=SABOTAGED)
            rig.ready(name)
    stage.over()
    stage.note = f"{kills} workers killed"


def _failed(stage: Stage[Deployed]) -> int:
    failed = "SELECT count(*) FROM scans WHERE state = 'failed' AND path >= %s AND path < %s"
    return stage.rig.ask(failed, f"{stage.name}/", f"{stage.name}/~")[0][0]


def up_killed(stage: Stage[Embedded]) -> None:
    """Kill everything at once, three times, as by a power switch."""
    stage.surge(0.3)
    for _ in range(3):
        stage.kill_one("up")
        stage.rig.restart("up")
        stage.rig.ready("up")
    stage.over()
    stage.flow()
    stage.note = "three times"
