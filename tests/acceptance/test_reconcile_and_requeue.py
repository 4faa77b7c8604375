"""`reconcile` and `requeue` as typed: their output and exit codes, and that they double nothing."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.programs import environment, run

from cli.query import RULE_ADVICE
from watcher import directory, ignore_rules
from watcher.reconcile import MISSING

pytestmark = pytest.mark.slow  # five commands that each load TensorFlow

ENV = environment(settle_seconds=0.2, batch_size=4, decoders=1)


def ask(folder: Path, question: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(folder / "data" / "pneumowatch.db")) as connection:
        return connection.execute(question).fetchall()


def test_every_rule_is_explained() -> None:
    from_names = {ignore_rules.ignore_rule(path) for path in (b".a", b"a.part", b"thumbs.db")}
    assert set(RULE_ADVICE) == {MISSING, directory.UNREACHABLE, directory.UNLISTABLE, "link", "not a file", *from_names}


def test_images_are_read_mended_and_counted(tmp_path: Path, phantoms: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    first, second, third = sorted(phantoms.iterdir())[:3]
    (inbox / "good.jpeg").write_bytes(first.read_bytes())
    (inbox / "bad.jpeg").write_bytes(second.read_bytes()[:900])
    assert run("up", "--once", cwd=tmp_path, env=ENV, timeout=300).code == 0
    assert ask(tmp_path, "SELECT state FROM scans ORDER BY path") == [("rejected",), ("classified",)]

    # what is no image, each by its rule; and one that is not registered yet
    (inbox / ".hidden").touch()
    (inbox / "half.part").touch()
    (inbox / "Thumbs.db").touch()
    (inbox / "link.jpeg").symlink_to(first)
    os.mkfifo(inbox / "pipe")
    (inbox / "new.jpeg").write_bytes(third.read_bytes())
    rules = {"hidden": 1, "temporary": 1, "system": 1, "link": 1, "not a file": 1, "missing": 1}
    for _ in range(2):  # it changes nothing, itself included
        found = run("reconcile", "--json", cwd=tmp_path, env=ENV)
        assert (found.code, found.json["closed"], found.json["files"]) == (1, False, 2)
        assert found.json["rules"] == rules
        assert {row["path"] for row in found.json["without_row"] if row["rule"] == "missing"} == {"new.jpeg"}
    told = run("reconcile", cwd=tmp_path, env=ENV)
    assert all(f"1 {rule}: " in told.out for rule in rules)
    assert len(ask(tmp_path, "SELECT 1 FROM scans")) == 2

    # the damaged image is tried again; the good one cannot be, nor one that waits
    (bad,) = ask(tmp_path, "SELECT id FROM scans WHERE path = 'bad.jpeg'")[0]
    assert run("requeue", bad, "--json", cwd=tmp_path, env=ENV).json == {"requeued": [bad]}
    said = run("requeue", "--reason", "unreadable", "--failed", cwd=tmp_path, env=ENV)
    assert "0 scans are queued again." in said.out
    assert run("up", "--once", cwd=tmp_path, env=ENV, timeout=300).code == 0
    assert ask(tmp_path, "SELECT path, state FROM scans ORDER BY path") == [
        ("bad.jpeg", "rejected"),
        ("good.jpeg", "classified"),
        ("new.jpeg", "classified"),
    ]
    assert ask(tmp_path, "SELECT count(*), count(DISTINCT scan_id) FROM predictions") == [(2, 2)]
    said = run("requeue", "--reason", "unreadable", cwd=tmp_path, env=ENV)
    assert "No running component announces them" in said.out
