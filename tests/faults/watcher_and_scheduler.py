"""Faults of the watcher and the scheduler: killed, doubled, a wrong clock, a dropped share, a restored backup."""

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

from sqlalchemy import make_url
from support.services import connect

from faults.rig import DATABASE, FAULTY_COMMAND, WORKERS, Deployed
from faults.scenario import HANDFUL, Scenario

EVENTS: Final = 17_000  # more than the kernel queues (the default of fs.inotify.max_queued_events is 16,384)
HOURS: Final = (-3, 5, -1)  # offsets to which the clock of some components is set, one after another


def watcher_killed(scenario: Scenario[Deployed]) -> None:
    """Kill the watcher in the middle of a burst of which it has registered or announced a part."""
    scenario.flow()
    scenario.wait_for(0.05)
    scenario.surge(0.2)
    scenario.rig.parts["watch"].kill()
    scenario.wait_for_more(HANDFUL)  # while no watcher runs
    scenario.rig.restart("watch")
    scenario.over()


def events_overflow(scenario: Scenario[Deployed]) -> None:
    """Halt the watcher while more events occur than the kernel queues; then drop more images."""
    watcher = scenario.rig.parts["watch"].process
    scenario.surge(0.1)
    scenario.wait_for(0.1)
    watcher.send_signal(signal.SIGSTOP)
    noise = [scenario.folder / f".noise-{number}.part" for number in range(2)]
    for number in range(EVENTS):
        noise[number % 2].touch()  # alternating, because the kernel merges two equal events in a row
        with noise[number % 2].open("ab"):
            pass
    scenario.surge(0.2)
    watcher.send_signal(signal.SIGCONT)
    scenario.over()
    scenario.flow()
    for path in noise:
        path.unlink()


def share_away(scenario: Scenario[Deployed]) -> None:
    """Move the inbox away while most of its scans are queued, then back. No scan becomes `vanished`."""
    inbox = scenario.rig.inbox
    away = inbox.with_name("away")
    scenario.surge(0.6)
    inbox.rename(away)
    scenario.wait_out(scenario.pace.outage)
    away.rename(inbox)
    scenario.over()
    scenario.flow()


def two_watchers(scenario: Scenario[Deployed]) -> None:
    """Run two watchers on one inbox during a burst: each file must have one row."""
    scenario.rig.start("watch-2")
    scenario.rig.wait_until(lambda: _watches(scenario, "watch-2"))
    scenario.surge(0.4)
    scenario.flow(scenario.pace.flow / 2)
    scenario.wait_for_all()
    scenario.over()
    _end(scenario, "watch-2")


def two_schedulers(scenario: Scenario[Deployed]) -> None:
    """Run two schedulers, so that with the watcher three processes sweep, and kill a worker.

    Its claims must be taken back and its scans announced again, once.
    """
    scenario.rig.start("schedule-2")
    scenario.surge(0.1)
    scenario.flow()
    scenario.kill_one(WORKERS[1])
    scenario.over()
    scenario.rig.restart(WORKERS[1])
    scenario.rig.ready(WORKERS[1])
    scenario.wait_for_all()
    _end(scenario, "schedule-2")


def clock_set(scenario: Scenario[Deployed]) -> None:
    """Set the clock of one machine (watcher, scheduler and one worker) by hours while images are processed.

    It stays wrong at the end, so this must be the last fault on its installation.
    """
    rig, clock = scenario.rig, scenario.rig.folder / "clock"
    clock.write_text("0", "ascii")
    skewed = {"FAULT_INJECTION_CLOCK": str(clock)}
    machine = ("watch", "schedule", WORKERS[0])
    for name in machine:
        rig.parts[name].terminate()
        rig.restart(name, command=FAULTY_COMMAND, variables=skewed)
    rig.ready(WORKERS[0])
    scenario.surge(0.2)
    scenario.flow(1.5 * scenario.pace.flow)
    for number, hours in enumerate(HOURS):
        _set(clock, hours)
        if number + 2 < scenario.pace.kills:  # so that leases also expire under the wrong clock
            scenario.kill_one(WORKERS[1])
            rig.restart(WORKERS[1])
            rig.ready(WORKERS[1])
        scenario.wait_for(0.3 * (number + 1))
    scenario.over()
    scenario.note = f"{', '.join(f'{hours:+} h' for hours in HOURS)}; workers of another machine killed meanwhile"


def database_restored(scenario: Scenario[Deployed]) -> None:
    """Restore an older backup while all components run: later files are found in the folders and processed again."""
    rig, backup = scenario.rig, scenario.rig.folder / "backup"
    scenario.surge(0.1)
    scenario.flow()
    scenario.wait_for(0.4)
    _postgres(rig, "pg_dump", "-Fc", "-f", backup, "-d", DATABASE)
    scenario.wait_for(0.6)
    with connect(rig.postgres.url) as server:
        server.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")
        server.execute(f"CREATE DATABASE {DATABASE}")
    _postgres(rig, "pg_restore", "--single-transaction", "-d", DATABASE, backup)
    scenario.over()


def _set(clock: Path, hours: float) -> None:
    """Set the clock's offset, atomically, because the processes read it all the time."""
    new = clock.with_suffix(".new")
    new.write_text(str(3600 * hours), "ascii")
    new.replace(clock)


def _postgres(rig: Deployed, program: str, *arguments: object) -> None:
    url = make_url(rig.postgres.url)
    who = ("-h", url.host, "-p", url.port, "-U", url.username)
    words = [str(word) for word in (rig.program(program), *who, *arguments)]
    subprocess.run(words, check=True, env=os.environ | {"PGPASSWORD": str(url.password)})


def _watches(scenario: Scenario[Deployed], name: str) -> bool:
    """Tell whether the component has asked the kernel for file events."""
    for file in Path(f"/proc/{scenario.rig.parts[name].process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed in the meantime
            if "inotify" in str(file.readlink()):
                return True
    return False


def _end(scenario: Scenario[Deployed], name: str) -> None:
    part = scenario.rig.parts.pop(name)
    assert part.terminate() == 0, part.said()
