"""The watcher and the schedule: killed, doubled, with a wrong clock. A share that drops; last night's backup."""

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

from services import connect
from sqlalchemy import make_url

from faults.rig import DATABASE, SABOTAGED, WORKERS, Deployed
from faults.stage import HANDFUL, Stage

EVENTS: Final = 17_000  # more than a queue of events holds (fs.inotify.max_queued_events is 16,384 where nobody set it)
HOURS: Final = (-3, 5, -1)  # the clock of some parts is set to these, one after another


def watcher_killed(stage: Stage[Deployed]) -> None:
    """In the middle of a burst, some of which it has seen, registered, or rung."""
    stage.flow()
    stage.wait_for(0.05)
    stage.surge(0.2)
    stage.rig.parts["watch"].kill()
    stage.wait_for_more(HANDFUL)  # which nobody sees come
    stage.rig.restart("watch")
    stage.over()


def events_overflow(stage: Stage[Deployed]) -> None:
    """More happens in the folder than the kernel keeps while the watcher is held up; films come after that."""
    watcher = stage.rig.parts["watch"].process
    stage.surge(0.1)
    stage.wait_for(0.1)
    watcher.send_signal(signal.SIGSTOP)
    noise = [stage.folder / f".noise-{number}.part" for number in range(2)]
    for number in range(EVENTS):
        noise[number % 2].touch()  # by turns: two equal events in a row are one
        with noise[number % 2].open("ab"):
            pass
    stage.surge(0.2)
    watcher.send_signal(signal.SIGCONT)
    stage.over()
    stage.flow()
    for path in noise:
        path.unlink()


def share_away(stage: Stage[Deployed]) -> None:
    """The inbox is not there, with most films of it queued; then it is back. None has vanished."""
    inbox = stage.rig.inbox
    away = inbox.with_name("away")
    stage.surge(0.6)
    inbox.rename(away)
    stage.wait_out(stage.pace.outage)
    away.rename(inbox)
    stage.over()
    stage.flow()


def two_watchers(stage: Stage[Deployed]) -> None:
    """On one inbox, in a burst: each file has one row."""
    stage.rig.start("watch-2")
    stage.rig.wait_until(lambda: _watches(stage, "watch-2"))
    stage.surge(0.4)
    stage.flow(stage.pace.flow / 2)
    stage.wait_for_all()
    stage.over()
    _end(stage, "watch-2")


def two_schedulers(stage: Stage[Deployed]) -> None:
    """Three that sweep, with the watcher, while a worker's films are to be taken back and a queue to be rung anew."""
    stage.rig.start("schedule-2")
    stage.surge(0.1)
    stage.flow()
    stage.kill_one(WORKERS[1])
    stage.over()
    stage.rig.restart(WORKERS[1])
    stage.rig.ready(WORKERS[1])
    stage.wait_for_all()
    _end(stage, "schedule-2")


def clock_set(stage: Stage[Deployed]) -> None:
    """The clock of one machine, with the watcher, the schedule and a worker, is set by hours while films are read.

    It stays as it is: no other fault comes to this installation after this one.
    """
    rig, clock = stage.rig, stage.rig.folder / "clock"
    clock.write_text("0", "ascii")
    skewed = {"SABOTAGE_CLOCK": str(clock)}
    machine = ("watch", "schedule", WORKERS[0])
    for name in machine:
        rig.parts[name].terminate()
        rig.restart(name, command=SABOTAGED, variables=skewed)
    rig.ready(WORKERS[0])
    stage.surge(0.2)
    stage.flow(1.5 * stage.pace.flow)
    for number, hours in enumerate(HOURS):
        _set(clock, hours)
        if number + 2 < stage.pace.kills:  # leases run out, too, under the wrong clock
            stage.kill_one(WORKERS[1])
            rig.restart(WORKERS[1])
            rig.ready(WORKERS[1])
        stage.wait_for(0.3 * (number + 1))
    stage.over()
    stage.note = f"{', '.join(f'{hours:+} h' for hours in HOURS)}; workers of another machine killed meanwhile"


def database_restored(stage: Stage[Deployed]) -> None:
    """To last night's backup, with all parts running: what came since is found in the folders and read again."""
    rig, backup = stage.rig, stage.rig.folder / "backup"
    stage.surge(0.1)
    stage.flow()
    stage.wait_for(0.4)
    _postgres(rig, "pg_dump", "-Fc", "-f", backup, "-d", DATABASE)
    stage.wait_for(0.6)
    with connect(rig.postgres.url) as server:
        server.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")
        server.execute(f"CREATE DATABASE {DATABASE}")
    _postgres(rig, "pg_restore", "--single-transaction", "-d", DATABASE, backup)
    stage.over()


def _set(clock: Path, hours: float) -> None:
    """At once: it is read all the time."""
    new = clock.with_suffix(".new")
    new.write_text(str(3600 * hours), "ascii")
    new.replace(clock)


def _postgres(rig: Deployed, program: str, *arguments: object) -> None:
    url = make_url(rig.postgres.url)
    who = ("-h", url.host, "-p", url.port, "-U", url.username)
    words = [str(word) for word in (rig.program(program), *who, *arguments)]
    subprocess.run(words, check=True, env=os.environ | {"PGPASSWORD": str(url.password)})


def _watches(stage: Stage[Deployed], name: str) -> bool:
    """It has asked the kernel for events."""
    for file in Path(f"/proc/{stage.rig.parts[name].process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it has closed it meanwhile
            if "inotify" in str(file.readlink()):
                return True
    return False


def _end(stage: Stage[Deployed], name: str) -> None:
    part = stage.rig.parts.pop(name)
    assert part.terminate() == 0, part.said()
