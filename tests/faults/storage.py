"""Faults of storage under `up`: a full disk, a locked ledger, a ledger replaced by an older copy."""

import json
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from support.programs import COMMAND, RunningCommand

from faults.rig import Embedded
from faults.scenario import Scenario

DISK_SIZE: Final = "96m"  # of the data folder: the model, a ledger, and a thousand stored images
ON_TMPFS: Final = 'mount -t tmpfs -o size="$1" tmpfs "$0" && shift && exec "$@"'
ASK: Final = (
    "import json, sqlite3, sys; connection = sqlite3.connect(sys.argv[1], timeout=60); "
    "print(json.dumps(connection.execute(sys.argv[2], json.loads(sys.argv[3])).fetchall()))"
)


class Cramped(Embedded):
    """`up` with its data folder on a small file system that exists only for the processes of this rig."""

    def up(self, *_: object, **settings: object) -> RunningCommand:
        self.data.mkdir(exist_ok=True)
        return super().up(("unshare", "-m", "sh", "-c", ON_TMPFS, str(self.data), DISK_SIZE, *COMMAND), **settings)

    def inside(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run a command inside that file system's mount namespace."""
        command = ["nsenter", "-m", "-t", str(self.parts["up"].process.pid), *words]
        return subprocess.run(command, capture_output=True, text=True)

    def ask(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        given = (str(self.ledger), sql.replace("%s", "?"), json.dumps(parameters))
        asked = self.inside(sys.executable, "-c", ASK, *given)
        assert asked.returncode == 0, asked.stderr
        return [tuple(row) for row in json.loads(asked.stdout)]


def no_mounts() -> str:
    with tempfile.TemporaryDirectory() as folder:
        command = ["unshare", "-m", "sh", "-c", ON_TMPFS, folder, DISK_SIZE, "true"]
        permitted = subprocess.run(command, capture_output=True).returncode == 0
    return "" if permitted else "file systems cannot be mounted here"


def disk_full(scenario: Scenario[Cramped]) -> None:
    """Fill the disk, so that neither images nor the ledger can be written; `up` waits until there is space."""
    rig, filler = scenario.rig, scenario.rig.data / "filler"
    scenario.surge(0.1)
    scenario.flow(2 * scenario.pace.outage)
    scenario.wait_for(0.05)
    rig.inside("sh", "-c", f"cat /dev/zero > {filler}")
    scenario.wait_out(1 + scenario.pace.outage)
    rig.inside("rm", str(filler))
    scenario.over()


def ledger_locked(scenario: Scenario[Embedded]) -> None:
    """Lock SQLite from another process for longer than its busy timeout."""
    scenario.surge(0.1)
    scenario.flow(2 * scenario.pace.outage)
    scenario.wait_for(0.05)
    with closing(sqlite3.connect(scenario.rig.ledger, timeout=60, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        scenario.wait_out(scenario.pace.outage)
        other.execute("COMMIT")
    scenario.over()


def ledger_copied_back(scenario: Scenario[Embedded]) -> None:
    """Stop `up`, replace its ledger by an older copy, and start it again: later images are processed again."""
    rig, backup = scenario.rig, scenario.rig.folder / "backup.db"
    scenario.surge(0.5)
    scenario.wait_for(0.2)
    with closing(sqlite3.connect(rig.ledger)) as source, closing(sqlite3.connect(backup)) as copy:
        source.backup(copy)
    scenario.wait_for(0.4)
    part = rig.parts["up"]
    assert part.terminate() == 0, part.said()
    for leftover in rig.data.glob("pneumowatch.db-*"):
        leftover.unlink()
    Path(backup).replace(rig.ledger)
    rig.restart("up")
    rig.ready("up")
    scenario.over()
    scenario.flow()
