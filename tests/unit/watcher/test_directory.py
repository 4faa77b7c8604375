"""Walking a shared folder: each name in it is found, with the rule that ignores it; nothing is opened or followed."""

import os
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from pneumowatch.errors import ShareUnavailable
from watcher import directory
from watcher.directory import InboxEntry


def walked(root: Path, below: bytes = b"") -> dict[bytes, str | None]:
    """Return {path: rule that ignores it}; None for what may be an image."""
    entries = list(directory.walk("inbox", root, below))
    assert all((entry.file is None) == (entry.rule is not None) for entry in entries)
    paths = [entry.path for entry in entries]
    assert len(paths) == len(set(paths))
    return {entry.path: entry.rule for entry in entries}


def test_files_at_any_depth_with_their_identity(tmp_path: Path) -> None:
    (tmp_path / "ward" / "3").mkdir(parents=True)
    image = tmp_path / "ward" / "3" / "a.png"
    image.write_bytes(b"pixels")
    os.utime(image, ns=(0, 1_234_567_890_123_456_789))
    (tmp_path / "b.png").touch()
    assert walked(tmp_path) == {b"ward/3/a.png": None, b"b.png": None}
    (entry,) = directory.walk("er", tmp_path, b"ward")
    assert entry.file is not None
    assert (entry.file.inbox, entry.file.path, entry.file.size) == ("er", b"ward/3/a.png", 6)
    assert entry.file.mtime_ns == 1_234_567_890_123_456_789


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert walked(tmp_path) == {}


def test_links_are_named_and_not_followed(tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.png").touch()
    (inbox / "to-folder").symlink_to(tmp_path / "outside")
    (inbox / "to-file").symlink_to(tmp_path / "outside" / "secret.png")
    (inbox / "to-nothing").symlink_to("nowhere")
    (inbox / "loop").symlink_to(".")
    assert walked(inbox) == dict.fromkeys([b"to-folder", b"to-file", b"to-nothing", b"loop"], "link")


def test_the_inbox_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "a.png").touch()
    (tmp_path / "link").symlink_to("inbox")
    assert walked(tmp_path / "link") == {b"a.png": None}


def test_pipes_and_sockets_are_named_and_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(tmp_path / "socket"))
        assert walked(tmp_path) == {b"pipe": "not a file", b"socket": "not a file"}


def test_hidden_and_temporary_names(tmp_path: Path) -> None:
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "a.png").touch()
    (tmp_path / "a.png.part").touch()
    (tmp_path / "Thumbs.db").touch()
    assert walked(tmp_path) == {b".hidden": "hidden", b"a.png.part": "temporary", b"Thumbs.db": "system"}


@pytest.mark.parametrize(
    "name", [b"r\xf6ntgen.png", b"new\nline.png", b"\x1b[31m.png", b" ", b"\\x00.png", b"\xff\xfe"]
)
def test_names_of_all_kinds(tmp_path: Path, name: bytes) -> None:
    Path(os.fsdecode(bytes(tmp_path) + b"/" + name)).touch()
    (entry,) = directory.walk("inbox", tmp_path)
    assert (entry.path, entry.rule) == (name, None)
    assert directory.inspect("inbox", tmp_path, name) == entry


def test_a_missing_inbox_is_a_share_that_is_away(tmp_path: Path) -> None:
    with pytest.raises(ShareUnavailable, match="'ward'"):
        list(directory.walk("ward", tmp_path / "missing"))


def test_an_inbox_that_is_a_file_is_a_share_that_is_away(tmp_path: Path) -> None:
    (tmp_path / "inbox").touch()
    with pytest.raises(ShareUnavailable):
        list(directory.walk("inbox", tmp_path / "inbox"))


def test_a_folder_that_has_gone_is_nothing_to_wait_for(tmp_path: Path) -> None:
    """It was announced, and moved away before it was looked into."""
    assert walked(tmp_path, b"gone") == {}


def test_a_folder_that_goes_while_others_are_walked(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").touch()
    entries = directory.walk("inbox", tmp_path)
    first = next(entries)
    other = "two" if first.path.startswith(b"one") else "one"
    (tmp_path / other / "a.png").unlink()
    (tmp_path / other).rmdir()
    assert list(entries) == []


def test_a_file_that_goes_while_it_is_listed_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").touch()
    judge = directory._make_entry

    def too_late(*args: object) -> InboxEntry:
        raise FileNotFoundError

    monkeypatch.setattr(directory, "_make_entry", too_late)
    assert walked(tmp_path) == {b"a.png": "gone"}
    monkeypatch.setattr(directory, "_make_entry", judge)


@pytest.mark.parametrize("fault", [OSError(116, "Stale file handle"), PermissionError(13, "Permission denied")])
def test_one_file_that_cannot_be_looked_at_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: OSError
) -> None:
    for name in "abcdef":
        (tmp_path / name).touch()
    judge = directory._make_entry

    def stale(inbox: str, path: bytes, status: os.stat_result) -> InboxEntry:
        if path == b"c":
            raise fault
        return judge(inbox, path, status)

    monkeypatch.setattr(directory, "_make_entry", stale)
    found = walked(tmp_path)
    assert {path for path, rule in found.items() if rule is None} == {b"a", b"b", b"d", b"e", b"f"}
    assert found[b"c"] not in (None, "gone")


WALK_AS_NOBODY = """
import os, sys
from pathlib import Path
from watcher import directory
root = os.open(sys.argv[1], os.O_RDONLY)
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
for entry in directory.walk("inbox", Path(f"/proc/self/fd/{root}")):
    print("found", os.fsdecode(entry.path), entry.rule)
"""


def test_a_folder_that_cannot_be_listed_is_named_and_hides_no_other(tmp_path: Path) -> None:
    """It may hold unregistered images: whoever checks whether the ledger is complete must be told."""
    tmp_path.chmod(0o755)
    for name in ("closed", "open"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").touch()
    (tmp_path / "closed").chmod(0)
    done = subprocess.run([sys.executable, "-c", WALK_AS_NOBODY, tmp_path], capture_output=True, text=True, check=True)
    (tmp_path / "closed").chmod(0o755)
    found = sorted(line for line in done.stdout.splitlines() if line.startswith("found"))
    assert found == ["found closed unlistable", "found open/a.png None"]


def test_a_look_at_one_path(tmp_path: Path) -> None:
    (tmp_path / "ward").mkdir()
    (tmp_path / "ward" / "a.png").write_bytes(b"pixels")
    (tmp_path / "link").symlink_to("ward/a.png")
    entry = directory.inspect("inbox", tmp_path, b"ward/a.png")
    assert entry is not None
    assert entry.file is not None
    assert entry.file.size == 6
    assert directory.inspect("inbox", tmp_path, b"link") == InboxEntry(b"link", None, "link")
    assert directory.inspect("inbox", tmp_path, b"ward") is None
    assert directory.inspect("inbox", tmp_path, b"missing") is None
    assert directory.inspect("inbox", tmp_path / "missing", b"a.png") is None


def test_nothing_is_opened(tmp_path: Path) -> None:
    """On a share, each byte read twice is one too many, and what is being written may be locked."""
    (tmp_path / "a.png").write_bytes(b"pixels")
    before = (tmp_path / "a.png").stat().st_atime_ns
    os.utime(tmp_path / "a.png", ns=(0, 0))
    walked(tmp_path)
    assert (tmp_path / "a.png").stat().st_atime_ns == 0 != before
