"""`up` while it runs: arriving images, Ctrl-C, kill -9, and a second `up` on the same folder."""

import os
import shutil
import sqlite3
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from support.programs import Drop, RunningCommand, environment, run

ENV = environment(settle_seconds=0.5, batch_size=4, decoders=2)
FINAL = {"classified", "rejected", "duplicate", "failed"}


def ask(folder: Path, statement: str) -> list[tuple[Any, ...]]:
    """Return rows of the ledger; none where there is no ledger yet."""
    try:
        with closing(sqlite3.connect(f"file:{folder}/data/pneumowatch.db?mode=ro", uri=True)) as connection:
            return connection.execute(statement).fetchall()
    except sqlite3.OperationalError:
        return []


def states(folder: Path) -> Counter[str]:
    return Counter(state for (state,) in ask(folder, "SELECT state FROM scan_ledger"))


def finished(folder: Path) -> int:
    return sum(count for state, count in states(folder).items() if state in FINAL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "inbox").mkdir()
    return tmp_path


def up(folder: Path) -> RunningCommand:
    return RunningCommand(("up",), folder, folder / "log", ENV)


def test_images_are_read_as_they_come_and_ctrl_c_drains(folder: Path, sample: list[Path], drop: Drop) -> None:
    with up(folder) as part:
        part.wait_until_said("model ready")

        shutil.copy(sample[0], folder / "inbox" / "first.jpeg")
        part.wait_until(lambda: finished(folder) == 1)

        second = run("up", "--once", cwd=folder, env=ENV)
        assert second.code == 1
        assert "Another `pneumowatch up` uses data" in second.err
        assert second.err.count("\n") == 1

        drop(folder / "inbox" / "many", 60)
        part.wait_until(lambda: len(ask(folder, "SELECT 1 FROM scans")) > 20)
        assert part.interrupt() == 0, part.said()
        assert "Traceback" not in part.said()
        assert states(folder)["running"] == 0
        assert not [image.name for image in sample if image.stem in part.said()]

    ended = run("up", "--once", cwd=folder, env=ENV)  # goes on where the other stopped
    assert ended.code == 0, ended.err
    assert states(folder).total() == finished(folder) == 61
    assert_each_was_read_once(folder)
    assert ask(folder, "SELECT max(lost_leases) FROM scans") == [(0,)]  # what was handed back counts against nobody


def test_images_survive_a_worker_that_is_killed(folder: Path, drop: Drop) -> None:
    drop(folder / "inbox", 160)
    with up(folder) as part:
        part.wait_until(lambda: finished(folder) >= 8)
        part.kill()
    assert finished(folder) < 160
    ended = run("up", "--once", cwd=folder, env=ENV)
    assert ended.code == 0, ended.err
    assert states(folder).total() == finished(folder) == 160
    assert states(folder)["classified"] == 160
    assert_each_was_read_once(folder)


def assert_each_was_read_once(folder: Path) -> None:
    results = ask(folder, "SELECT scan_id FROM scan_events WHERE to_state IN ('classified', 'duplicate', 'rejected')")
    assert max(Counter(results).values()) == 1
    predictions = ask(folder, "SELECT scan_id FROM predictions")
    assert max(Counter(predictions).values()) == 1
    assert len(predictions) == states(folder)["classified"]


def commands_below(process: Path) -> list[str]:
    """Return the commands of its children, as they are in /proc."""
    found = []
    for task in process.glob("task/*/children"):
        with suppress(OSError):  # it has ended meanwhile, or its child has
            found += [(process.parent / child / "cmdline").read_text("utf-8") for child in task.read_text().split()]
    return found


@pytest.mark.parametrize(
    "moment", ["before anything is loaded", "as TensorFlow is", "as its children start", "as reading begins"]
)
def test_ctrl_c_while_it_starts(folder: Path, drop: Drop, moment: str) -> None:
    drop(folder / "inbox", 3)
    with up(folder) as part:
        process = Path("/proc") / str(part.process.pid)
        part.wait_until_said("model ready" if moment == "as reading begins" else "Ctrl-C ends it")
        if moment == "as TensorFlow is":
            part.wait_until(lambda: "tensorflow" in (process / "maps").read_text("utf-8"))
        if moment == "as its children start":
            part.wait_until(lambda: any("spawn_main" in command for command in commands_below(process)))
        assert part.interrupt() == 0
        assert "Traceback" not in part.said()
    assert states(folder)["running"] == 0


def test_an_inbox_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    ended = run("up", "--once", cwd=tmp_path, env=ENV)
    assert ended.code == 1
    assert "The inbox 'inbox' is not there" in ended.err
    assert not (tmp_path / "data").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_data_folder_that_cannot_be_written_is_a_sentence(folder: Path) -> None:
    (folder / "data").mkdir(0o500)
    ended = run("up", "--once", cwd=folder, env=ENV)
    assert ended.code == 1
    assert "cannot be written to" in ended.err


def test_a_data_path_that_is_a_file_is_a_sentence(folder: Path) -> None:
    (folder / "data").touch()
    ended = run("up", "--once", cwd=folder, env=ENV)
    assert ended.code == 1
    assert "cannot be written to" in ended.err
    assert "Traceback" not in ended.err


def test_an_empty_inbox_is_done_at_once_without_the_model(folder: Path) -> None:
    started = time.monotonic()
    ended = run("up", "--once", cwd=folder, env=ENV | {"PNEUMOWATCH_MODEL_DIR": "/nowhere"})
    assert ended.code == 0, ended.err
    assert time.monotonic() - started < 10
