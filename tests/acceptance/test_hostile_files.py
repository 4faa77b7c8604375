"""Hostile files through the real command: each ends in one state, and none harms anything else."""

import sqlite3
import subprocess
import sys
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import mutants
import pytest
from support import fault_injection
from support.programs import Drop, RunningCommand, environment

from cli.bench.processes import resource_usage
from pneumowatch.errors import ImageRejected
from pneumowatch.imaging import reader
from pneumowatch.model_folder import shipped_folder

MUTANTS: Final = 2000
SEED: Final = 20_000  # of the first
SECONDS: Final = 5.0  # bound on reading one image
BYTES: Final = 1.3e9  # `up` with its children reads sound images with 1.0e9
WAIT: Final = 300.0


def ask(data: Path, statement: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(data / "pneumowatch.db") as connection:
        found = connection.execute(statement).fetchall()
    connection.close()
    return found


def expected(data: bytes) -> str:
    """Return what the image reader reports for these bytes, in this process."""
    try:
        reader.read_image(data, shipped_folder().side)
    except ImageRejected as fault:
        return fault.reason
    return "classified"


@pytest.mark.slow
def test_two_thousand_damaged_images_each_end_in_one_state(tmp_path: Path) -> None:
    paths = mutants.write(tmp_path / "inbox", MUTANTS, SEED)
    data, peak = tmp_path / "data", 0
    env = environment(settle_seconds=0, decode_seconds=SECONDS, max_bytes=10_000_000)
    command = ("up", "--once", "--inbox", tmp_path / "inbox", "--data", data)
    with RunningCommand(command, tmp_path, tmp_path / "up.log", env) as part:
        while part.process.poll() is None:
            peak = max(peak, resource_usage(part.process.pid).resident)
            try:
                part.process.wait(0.5)
            except subprocess.TimeoutExpired:
                continue
    assert part.process.returncode == 0, part.said()
    assert peak < BYTES

    rows = dict(ask(data, "SELECT path, CASE state WHEN 'rejected' THEN reason ELSE state END FROM scan_ledger"))
    assert set(rows) == {path.name for path in paths}
    first_of_bytes: dict[bytes, str] = {}
    for path in paths:
        read = expected(path.read_bytes())
        # the input gate may refuse what is left of a damaged image
        read_or_refused = {read, "duplicate", "not_chest_xray"} if read == "classified" else {read}
        assert rows[path.name] in read_or_refused, path.name
        first_of_bytes.setdefault(path.read_bytes(), path.name)
    assert Counter(rows.values())["classified"] > MUTANTS / 10
    duplicates = Counter(rows.values())["duplicate"]
    assert duplicates < MUTANTS / 10  # damage that changed nothing that counts
    assert ask(data, "SELECT count(*) FROM scan_ledger WHERE state = 'rejected' AND coalesce(detail, '') = ''") == [
        (0,)
    ]

    assert ask(data, "SELECT count(*) FROM scan_events WHERE detail LIKE '%lease%'") == [(0,)]  # no worker was lost
    times = ask(
        data,
        "SELECT r.at, f.at FROM scan_events r JOIN scan_events f ON f.scan_id = r.scan_id "
        "WHERE r.to_state = 'running' AND f.from_state = 'running'",
    )
    assert len(times) == MUTANTS
    took = [datetime.fromisoformat(ended) - datetime.fromisoformat(begun) for begun, ended in times]
    assert max(took).total_seconds() < SECONDS


def test_decoders_that_crash_hang_or_eat_memory_cost_their_images_alone(tmp_path: Path, drop: Drop) -> None:
    good = drop(tmp_path / "inbox", 12)
    orders = {
        "a-crash": (fault_injection.CRASH, "unreadable"),
        "b-hang": (fault_injection.HANG, "too_slow"),
        "c-grow": (fault_injection.GROW, "too_large"),
        "d-kill": (fault_injection.KILL, "unreadable"),
    }
    for name, (order, _) in orders.items():
        (tmp_path / "inbox" / name).write_bytes(order)
    env = environment(settle_seconds=0, decode_seconds=2, decode_memory=2**30, batch_size=16)
    command = [
        sys.executable,
        str(Path(fault_injection.__file__)),
        "up",
        "--once",
        "--inbox",
        "inbox",
        "--data",
        "data",
    ]
    ended = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=WAIT)
    assert ended.returncode == 0, ended.stderr
    rows = dict(ask(tmp_path / "data", "SELECT path, coalesce(reason, state) FROM scan_ledger"))
    assert {name: rows.pop(name) for name in orders} == {name: reason for name, (_, reason) in orders.items()}
    assert rows == {path.name: "classified" for path in good}
    attempts = ask(tmp_path / "data", "SELECT count(*) FROM scan_events WHERE to_state = 'running'")
    assert attempts == [(len(good) + len(orders),)]  # none was tried again, the worker never died
