"""Faults of processes: killed or stopped while they hold images."""

import signal

from support import fault_injection
from support.programs import COMMAND_SECONDS

from faults.rig import FAULTY_COMMAND, WORKERS, Deployed, Embedded, Rig, kill_quietly
from faults.scenario import LEFT_SECONDS, Scenario


def worker_killed(scenario: Scenario[Deployed]) -> None:
    """Kill a worker (SIGKILL) while it processes; after a lease the other one processes what it held or had fetched."""
    scenario.surge(0.1)
    scenario.flow()
    victim, held = scenario.kill_one(*WORKERS)
    scenario.over()
    scenario.note = f"it held {held} images"
    scenario.rig.restart(victim)
    scenario.rig.ready(victim)


def workers_killed_again_and_again(scenario: Scenario[Deployed]) -> None:
    """Kill one of two ready workers while it holds images; repeat when its replacement is ready."""
    held = []
    for _ in range(scenario.pace.kills):
        scenario.surge(1 / scenario.pace.kills)
        victim, images = scenario.kill_one(*WORKERS)
        held.append(images)
        scenario.rig.restart(victim)
        scenario.rig.ready(victim)
    scenario.over()
    scenario.flow(1)
    scenario.note = f"{len(held)} kills, each of a worker that held {min(held)} to {max(held)} images"


def worker_drained(scenario: Scenario[Deployed]) -> None:
    """Stop a worker (SIGTERM) under load: it ends by itself with 0, and no attempt is counted."""
    scenario.surge(0.1)
    scenario.flow()
    name, held = scenario.catch(*WORKERS)
    part = scenario.rig.parts[name]
    part.process.terminate()
    part.process.send_signal(signal.SIGCONT)
    assert part.process.wait(COMMAND_SECONDS) == 0, part.said()
    assert scenario.rig.held_by(part.process.pid) == 0
    scenario.over()
    scenario.rig.restart(name)
    scenario.rig.ready(name)
    scenario.wait_for_all()
    counted = "SELECT count(*) FROM scans WHERE lost_leases > 0 AND path >= %s AND path < %s"
    assert scenario.rig.ask(counted, f"{scenario.name}/", f"{scenario.name}/~") == [(0,)]
    scenario.note = f"it held {held} images; exit code 0, no attempt counted"


def decoder_killed(scenario: Scenario[Rig]) -> None:
    """Kill the decoding child processes of one worker, one after another."""
    name = next(name for name in scenario.rig.parts if name in (*WORKERS, "up"))
    scenario.surge(0.1)
    scenario.flow()
    killed = 0
    for share in (0.05, 0.15, 0.3, 0.45):
        scenario.wait_for(share)
        killed += sum(map(kill_quietly, scenario.rig.decoders(name)))
    scenario.over()
    assert killed
    scenario.note = f"{killed} killed"


def image_that_kills(scenario: Scenario[Deployed]) -> None:
    """Drop an image that kills its worker: it is tried again alone, then failed. The rest of its batch has results."""
    rig = scenario.rig
    for name in WORKERS:
        rig.parts[name].terminate()
        rig.restart(name, command=FAULTY_COMMAND)
    rig.ready(*WORKERS)
    scenario.surge(0.1)
    scenario.drop(fault_injection.DOWN)
    scenario.expected_failed = 1
    scenario.flow()
    kills = 0
    while rig.wait_until(lambda: rig.crashed() or _failed(scenario), LEFT_SECONDS) and rig.crashed():
        for name in rig.crashed():
            assert rig.parts[name].process.returncode == -signal.SIGKILL, rig.parts[name].said()
            kills += 1
            rig.restart(name, command=FAULTY_COMMAND)
            rig.ready(name)
    scenario.over()
    scenario.note = f"{kills} workers killed"


def _failed(scenario: Scenario[Deployed]) -> int:
    failed = "SELECT count(*) FROM scans WHERE state = 'failed' AND path >= %s AND path < %s"
    return scenario.rig.ask(failed, f"{scenario.name}/", f"{scenario.name}/~")[0][0]


def up_killed(scenario: Scenario[Embedded]) -> None:
    """Kill everything at once, three times, as by a power switch."""
    scenario.surge(0.3)
    for _ in range(3):
        scenario.kill_one("up")
        scenario.rig.restart("up")
        scenario.rig.ready("up")
    scenario.over()
    scenario.flow()
    scenario.note = "three times"
