"""`up --once` on a realistic folder, and every command that reads its results."""

import io
import os
import shutil
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.programs import CompletedCommand, Drop, environment, run

from pneumowatch.model_folder import shipped_folder

IMAGES = 14
ENV = environment(settle_seconds=1, batch_size=8)


@dataclass
class Done:
    folder: Path
    images: list[Path]
    odd: dict[bytes, tuple[bytes, str]]  # name -> content, expected state or reason
    first: CompletedCommand

    @property
    def inbox(self) -> Path:
        return self.folder / "inbox"

    def run(self, *arguments: object) -> CompletedCommand:
        return run(*arguments, cwd=self.folder, env=ENV)

    def rows(self) -> dict[bytes, sqlite3.Row]:
        """Ledger rows by raw path."""
        with sqlite3.connect(self.folder / "data" / "pneumowatch.db") as connection:
            connection.row_factory = sqlite3.Row
            found = connection.execute("SELECT s.path_bytes, l.* FROM scan_ledger l JOIN scans s ON s.id = l.scan_id")
            rows = {row["path_bytes"]: row for row in found}
        connection.close()
        return rows


def odd_files(image: Path) -> dict[bytes, tuple[bytes, str]]:
    data = image.read_bytes()
    picture = Image.open(image).convert("L")

    def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
        file = io.BytesIO()
        image.save(file, kind, **options)
        return file.getvalue()

    deep = Image.fromarray(np.asarray(picture, np.uint16) * 257)
    return {
        b"empty.jpeg": (b"", "empty"),
        b"cut.jpeg": (data[: len(data) // 2], "unreadable"),
        b"letter.jpeg": (b"Dear colleague, enclosed please find\n" * 9, "unsupported"),
        b"deep.png": (encode(deep, "PNG"), "classified"),
        b"print.jpeg": (encode(picture.convert("CMYK"), "JPEG"), "classified"),
        b"moving.gif": (
            encode(picture, "GIF", save_all=True, append_images=[Image.new("L", picture.size)]),
            "classified",
        ),
        b"two\nlines.jpeg": (data + b"1", "classified"),
        "Übergröße-Ωμέγα-胸部.jpeg".encode(): (data + b"2", "classified"),
        b"M\xfcller.jpeg": (data + b"3", "classified"),
        b"[bold]markup[/nothing].jpeg": (data + b"4", "classified"),
        b"-n.jpeg": (data + b"5", "classified"),
        b"twin.jpeg": (data, "duplicate"),
        b"sub/folder/image.jpeg": (data + b"6", "classified"),
    }


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, drop: Drop) -> Done:
    folder = tmp_path_factory.mktemp("once")
    images = drop(folder / "inbox", IMAGES)
    odd = odd_files(images[0])
    for name, (content, _) in odd.items():
        path = folder / "inbox" / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / "inbox" / "half.jpeg.part").write_bytes(b"a browser's")
    (folder / "inbox" / "link.jpeg").symlink_to(images[0])
    return Done(folder, images, odd, run("up", "--once", cwd=folder, env=ENV))


def test_it_ends_well_and_every_file_has_its_state(done: Done) -> None:
    assert done.first.code == 0, done.first.err
    rows = done.rows()
    assert set(rows) == {os.fsencode(path.name) for path in done.images} | set(done.odd)
    for path in done.images:
        row = rows[os.fsencode(path.name)]
        assert row["state"] == "classified" or (path == done.images[0] and row["state"] == "duplicate")
        assert 0 <= row["probability"] <= 1
        assert row["model_version"] == shipped_folder().version
    duplicates = {rows[b"twin.jpeg"]["state"], rows[os.fsencode(done.images[0].name)]["state"]}
    assert duplicates == {"classified", "duplicate"}
    for name, (_, expected) in done.odd.items():
        if name != b"twin.jpeg":
            assert expected in (rows[name]["state"], rows[name]["reason"]), name


def test_the_same_image_in_other_formats_has_the_same_probability(done: Done) -> None:
    rows = done.rows()
    image = rows[os.fsencode(done.images[0].name)]["probability"]
    for name in (b"two\nlines.jpeg", b"M\xfcller.jpeg", b"sub/folder/image.jpeg", b"twin.jpeg"):
        assert rows[name]["probability"] == pytest.approx(image, abs=1e-5)


def test_nothing_that_is_said_names_an_image(done: Done) -> None:
    names = {path.stem for path in done.images} | {os.fsdecode(name) for name in done.odd}
    said = done.first.err + done.first.out
    assert not [name for name in names if name in said]
    assert not [word for word in ("person", "NORMAL", "IM-", "phantom", "jpeg") if word in said]


def test_nothing_in_the_inbox_was_touched(done: Done) -> None:
    for name, (content, _) in done.odd.items():
        assert (done.inbox / os.fsdecode(name)).read_bytes() == content
    assert len(list(done.inbox.iterdir())) == IMAGES + len(done.odd) + 2


def test_a_second_run_finds_nothing_new_and_says_so_quickly(done: Done) -> None:
    before = {path: tuple(row) for path, row in done.rows().items()}
    started = time.monotonic()
    again = done.run("up", "--once")
    assert again.code == 0, again.err
    assert time.monotonic() - started < 10
    assert {path: tuple(row) for path, row in done.rows().items()} == before


def test_what_the_commands_say_agrees(done: Done) -> None:
    rows = done.rows().values()
    status = done.run("status", "--json").json
    flagged = done.run("flagged", "--json", "-n", 999).json
    unscored = done.run("unscored", "--json").json
    reconciled = done.run("reconcile", "--json").json

    assert sum(status["counts"].values()) == len(rows) == IMAGES + len(done.odd)
    assert status["sources"] == {"inbox": status["counts"]}
    assert status["counts"]["rejected"] == status["unscored"] == len(unscored) == 3
    assert status["counts"]["queued"] == status["counts"]["running"] == status["counts"]["failed"] == 0
    assert status["oldest_waiting_seconds"] is None
    assert status["model"] == shipped_folder().version

    expected = {row["scan_id"] for row in rows if row["flagged"] and row["state"] == "classified"}
    assert {case["scan_id"] for case in flagged} == expected
    assert status["flagged"] == status["flagged_unread"] == len(flagged)
    probabilities = [case["probability"] for case in flagged]
    assert probabilities == sorted(probabilities, reverse=True)
    assert all(case["probability"] >= case["threshold"] and case["flagged"] is True for case in flagged)

    assert {case["path"]: case["reason"] for case in unscored} == {
        "empty.jpeg": "empty",
        "cut.jpeg": "unreadable",
        "letter.jpeg": "unsupported",
    }
    assert reconciled["closed"] is True
    assert reconciled["files"] == len(rows)
    rules = {(one["path"], one["rule"]) for one in reconciled["without_row"]}
    assert rules == {("half.jpeg.part", "temporary"), ("link.jpeg", "link")}


@pytest.mark.parametrize("command", ["unscored", "reconcile"])
def test_tables_are_printed_whatever_the_names_hold(done: Done, command: str) -> None:
    ended = done.run(command)
    assert ended.code == 0, ended.err
    assert ended.out.strip()


def test_reconcile_names_an_image_that_is_missing_from_the_ledger(done: Done) -> None:
    late = done.inbox / "late.jpeg"
    late.write_bytes(b"came after the run")
    try:
        ended = done.run("reconcile", "--json")
        assert ended.code == 1
        assert ended.json["closed"] is False
        assert {"source": "inbox", "path": "late.jpeg", "rule": "missing"} in ended.json["without_row"]
    finally:
        late.unlink()


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_classify_says_what_the_pipeline_says(done: Done, encoding: str) -> None:
    rows = done.rows()
    names = [os.fsencode(path.name) for path in done.images[1:]] if encoding == "utf-8" else []
    names += [b"deep.png", b"M\xfcller.jpeg", b"two\nlines.jpeg", b"cut.jpeg", b"empty.jpeg"]
    paths = [os.fsencode(done.inbox) + b"/" + name for name in names]
    ended = run("classify", "--json", *paths, cwd=done.folder, env=ENV | {"PYTHONIOENCODING": encoding})
    assert ended.code == 1, ended.err  # two images without a result
    assert len(ended.json) == len(names)
    for name, said in zip(names, ended.json, strict=True):
        row = rows[name]
        assert (said["state"], said["reason"]) == (row["state"], row["reason"])
        assert (said["threshold"], said["model_version"]) == (shipped_folder().threshold, shipped_folder().version)
        if row["state"] == "classified":
            assert said["probability"] == pytest.approx(row["probability"], abs=1e-5)
            assert said["flagged"] == bool(row["flagged"])
        else:
            assert said["probability"] is said["flagged"] is None


def test_classify_prints_a_table_of_any_names(done: Done) -> None:
    names = [
        b"M\xfcller.jpeg",
        b"two\nlines.jpeg",
        b"[bold]markup[/nothing].jpeg",
        "Übergröße-Ωμέγα-胸部.jpeg".encode(),
    ]
    (done.folder / "loop.jpeg").symlink_to("loop.jpeg")
    ended = done.run(
        "classify", *(os.fsencode(done.inbox) + b"/" + name for name in names), "loop.jpeg", "no-such-image"
    )
    assert ended.code == 1, ended.err
    assert "Traceback" not in ended.err
    assert ended.out.count("classified") == 4
    assert ended.out.count("rejected") == 2


@pytest.mark.slow
def test_requeue_gives_a_mended_image_another_try(done: Done, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(done.folder, tmp_path / "copy", symlinks=True))
    assert run("requeue", "--reason", "nonsense", cwd=copy, env=ENV).code == 2
    queued = run("requeue", "--reason", "unreadable", "--json", cwd=copy, env=ENV)
    assert queued.code == 0, queued.err
    assert len(queued.json["requeued"]) == 1
    assert run("requeue", "--reason", "unreadable", "--json", cwd=copy, env=ENV).json == {"requeued": []}
    (copy / "inbox" / "cut.jpeg").write_bytes(done.images[1].read_bytes() + b"mended")
    ended = run("up", "--once", cwd=copy, env=ENV)
    assert ended.code == 0, ended.err
    with sqlite3.connect(copy / "data" / "pneumowatch.db") as connection:
        states = connection.execute("SELECT state FROM scans WHERE path = 'cut.jpeg'").fetchall()
    connection.close()
    assert states == [("classified",)]
