"""A disaster: a backup taken while everything runs, a wrecked data folder, restore, `reconcile`, a closed ledger."""

import os
import shutil
import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from support.programs import Drop, RunningCommand, environment, run
from support.services import Server, connect, postgres_programs

BEFORE, SINCE = 24, 6  # images before the backup, and after it
FINAL = "SELECT count(*) FROM scan_ledger WHERE finished_at IS NOT NULL"
RESULTS = "SELECT path, state, probability, sha256 FROM scan_ledger WHERE path LIKE 'before%' ORDER BY path"


@pytest.mark.slow
def test_the_data_folder_of_up_is_wrecked(tmp_path: Path, drop: Drop) -> None:
    env = environment(settle_seconds=0.5, batch_size=8, decoders=2, keep_images="all")
    data, inbox = tmp_path / "data", tmp_path / "inbox"
    drop(inbox / "before", BEFORE)

    def ask(statement: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(data / "pneumowatch.db")) as connection:
            return connection.execute(statement).fetchall()

    with RunningCommand(("up", "--no-review"), tmp_path, tmp_path / "log", env) as up:
        up.wait_until_said("model ready")
        up.wait_until(lambda: ask(FINAL) == [(BEFORE,)])
        taken = run("backup", tmp_path / "backup", "--json", cwd=tmp_path, env=env)
        assert taken.code == 0, taken.err
        assert taken.json["patient_key"]
        results, kept = ask(RESULTS), sorted(path.name for path in (data / "images").iterdir())
        drop(inbox / "since", BEFORE + SINCE)
        up.wait_until(lambda: ask(FINAL) == [(2 * BEFORE + SINCE,)])
        up.kill()

    wreck(data)
    refused = run("restore", tmp_path / "backup", cwd=tmp_path, env=env)
    assert refused.code == 1
    assert "--replace" in refused.err
    restored = run("restore", tmp_path / "backup", "--replace", "--json", cwd=tmp_path, env=env)
    assert restored.code == 0, restored.err
    assert ask(RESULTS) == results
    assert sorted(path.name for path in (data / "images").iterdir() if not path.name.startswith(".")) == kept != []

    open_ledger = run("reconcile", "--json", cwd=tmp_path, env=env)
    assert open_ledger.code == 1  # it names what came since
    assert open_ledger.json["rules"] == {"missing": BEFORE + SINCE}
    assert run("up", "--once", cwd=tmp_path, env=env).code == 0
    closed = run("reconcile", "--json", cwd=tmp_path, env=env)
    assert closed.code == 0
    assert closed.json["files"] == 2 * BEFORE + SINCE
    assert ask(RESULTS) == results
    assert run("doctor", cwd=tmp_path, env=env).code == 0
    for said in (taken, refused, restored):
        assert "before" not in said.out + said.err  # no image is named


def wreck(data: Path) -> None:
    """Damage a data folder as a failing disk does: half of the database is zeros, and folders are gone."""
    file = data / "pneumowatch.db"
    os.truncate(file, file.stat().st_size // 2)
    with file.open("r+b") as opened:
        opened.write(bytes(4096))
    shutil.rmtree(data / "images")
    shutil.rmtree(data / "models")
    (data / "patient.key").write_text("0" * 64)


@pytest.mark.slow
def test_the_database_of_a_department_is_lost(
    tmp_path: Path, own_redis: Server, postgres_database: str, drop: Drop
) -> None:
    data, inbox = tmp_path / "data", tmp_path / "images"
    env = environment(
        inboxes=f"ward={inbox}",
        data_dir=data,
        database_url=postgres_database,
        broker_url=own_redis.url,
        settle_seconds=0.5,
        batch_size=8,
        decoders=1,
    )
    env["PATH"] = os.pathsep.join([str(postgres_programs()), env["PATH"]])  # pg_dump of the server that runs
    drop(inbox / "before", BEFORE)

    def ask(statement: str) -> list[tuple[Any, ...]]:
        with connect(postgres_database) as connection:
            return connection.execute(statement).fetchall()

    assert run("db", "upgrade", cwd=tmp_path, env=env).code == 0
    with ExitStack() as parts:
        watch, _ = (
            parts.enter_context(RunningCommand((name,), tmp_path, tmp_path / f"{name}.log", env))
            for name in ("watch", "work")
        )
        watch.wait_until(lambda: ask(FINAL) == [(BEFORE,)])
        taken = run("backup", tmp_path / "backup", cwd=tmp_path, env=env)
        assert taken.code == 0, taken.err
        results = ask(RESULTS)
        in_the_way = run("restore", tmp_path / "backup", "--replace", cwd=tmp_path, env=env)
        assert in_the_way.code == 1
        assert "are running" in in_the_way.err
        for part in ("watch", "work"):
            assert part in in_the_way.err
    drop(inbox / "since", SINCE)

    with connect(postgres_database) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    shutil.rmtree(data)
    restored = run("restore", tmp_path / "backup", cwd=tmp_path, env=env)
    assert restored.code == 0, restored.err
    assert ask(RESULTS) == results
    with RunningCommand(("watch",), tmp_path, tmp_path / "watch.log", env) as watch:
        watch.wait_until(lambda: ask("SELECT count(*) FROM scan_ledger") == [(BEFORE + SINCE,)])
        closed = run("reconcile", "--json", cwd=tmp_path, env=env)
        assert closed.code == 0, closed.out
        assert closed.json["files"] == BEFORE + SINCE
    assert ask(RESULTS) == results
