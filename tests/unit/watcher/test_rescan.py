import os
import socket
from pathlib import Path

import pytest

from pneumowatch.errors import ShareAway
from watcher.rescan import Entry, look, walk


def entries(root: Path) -> dict[bytes, Entry]:
    return {entry.path: entry for entry in walk("ward", root)}


def test_every_file_is_found_with_its_size_and_time(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "film.jpeg").write_bytes(b"12345")
    os.utime(tmp_path / "a" / "b" / "film.jpeg", ns=(1, 1_600_000_000_123_456_789))
    (entry,) = entries(tmp_path).values()
    assert entry.file is not None
    assert (entry.file.inbox, entry.file.path) == ("ward", b"a/b/film.jpeg")
    assert (entry.file.size, entry.file.mtime_ns) == (5, 1_600_000_000_123_456_789)


@pytest.mark.parametrize("name", [b"new\nline.jpeg", "Müller_Юрий_胸.png".encode(), b"\xff\xfe.jpeg", b"x" * 255])
def test_names_are_bytes(tmp_path: Path, name: bytes) -> None:
    with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:  # noqa: PTH118, PTH123 - no text
        file.write(b"x")
    (entry,) = entries(tmp_path).values()
    assert entry.path == name
    assert entry.file is not None


def test_what_is_no_film_is_named_with_its_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "film.jpeg").write_bytes(b"x")
    (tmp_path / "film.part").write_bytes(b"x")
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "link.jpeg").symlink_to("/etc/passwd")
    (tmp_path / "away").symlink_to("/etc")
    os.mkfifo(tmp_path / "pipe.jpeg")
    with socket.socket(socket.AF_UNIX) as unix:
        monkeypatch.chdir(tmp_path)  # names of sockets are short
        unix.bind("socket.jpeg")
        found = entries(tmp_path)
    assert {path: entry.rule for path, entry in found.items()} == {
        b".cache": "hidden",
        b"film.part": "temporary",
        b"Thumbs.db": "system",
        b"link.jpeg": "link",
        b"away": "link",
        b"pipe.jpeg": "not a file",
        b"socket.jpeg": "not a file",
    }
    assert all(entry.file is None for entry in found.values())


def test_an_inbox_that_is_gone_is_a_share_that_is_away(tmp_path: Path) -> None:
    with pytest.raises(ShareAway, match="ward"):
        list(walk("ward", tmp_path / "gone"))


def test_a_look_at_one_path_agrees_with_the_walk(tmp_path: Path) -> None:
    (tmp_path / "film.jpeg").write_bytes(b"x")
    (tmp_path / "link.jpeg").symlink_to("film.jpeg")
    (tmp_path / "folder").mkdir()
    found = entries(tmp_path)
    for path in (b"film.jpeg", b"link.jpeg"):
        assert look("ward", tmp_path, path) == found[path]
    assert look("ward", tmp_path, b"folder") is None
    assert look("ward", tmp_path, b"gone.jpeg") is None
