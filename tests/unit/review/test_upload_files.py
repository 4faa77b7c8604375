"""Uploaded files: stored whole or not at all, under safe names that the watcher does not ignore."""

import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from pneumowatch.errors import UploadRefused
from pneumowatch.inboxes import UPLOADS
from review import upload_files
from review.upload_files import IncomingFile, stored_name
from trainer.dataset import patient_of
from watcher.ignore_rules import ignore_rule

TRICKS = [
    "../../etc/passwd", "..", ".", "", "/etc/passwd", "..\\..\\boot.ini", "C:\\images\\a.png", "a/b/c.dcm", ".hidden",
    "~lock.dcm", "~$image.dcm", "image.part", "image.png.tmp", "Thumbs.db", "desktop.ini", "a\0b.png", "a\nb.png",
    "\u202egnp.exe", "x" * 500 + ".jpeg", "\u00e4" * 300 + ".png", "\ud800.png", "...png", "image.png/", " .png",
    "con.", "%2e%2e%2fpasswd", "$RECYCLE.BIN", "-rf", "name with blanks.JPEG",
]  # fmt: skip


@pytest.mark.parametrize("name", TRICKS, ids=ascii)
def test_no_name_leads_out_of_the_inbox_or_past_the_watcher(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "uploads"
    with IncomingFile(folder, name, 10) as incoming:
        incoming.write(b"image")
        seen = incoming.finish()
    (stored,) = folder.iterdir()
    assert stored.read_bytes() == b"image"
    assert os.fsencode(stored.name) == seen.path
    assert len(seen.path) <= 255
    assert b"/" not in seen.path
    assert seen.text.isprintable()
    assert ignore_rule(seen.path) is None
    assert sorted(tmp_path.iterdir()) == [folder]


def test_a_name_keeps_what_readers_and_the_trainer_know_it_by() -> None:
    name = stored_name("person12_virus_47.JPEG")
    assert name.startswith("person12_virus_47-")
    assert name.endswith(".jpeg")
    assert patient_of(name) == "person12"
    assert patient_of(stored_name("NORMAL2-IM-0035-0001.jpeg")) == "NORMAL2-IM-0035"
    assert stored_name("image.png") != stored_name("image.png")


def test_a_finished_file_is_as_the_ledger_has_it(tmp_path: Path) -> None:
    with IncomingFile(tmp_path, "image.png", 100) as incoming:
        incoming.write(b"an image ")
        incoming.write(b"in two parts")
        assert [ignore_rule(os.fsencode(path.name)) for path in tmp_path.iterdir()] == ["hidden"]
        seen = incoming.finish()
    (stored,) = tmp_path.iterdir()
    status = stored.stat()
    assert (seen.inbox, seen.size, seen.mtime_ns) == (UPLOADS, status.st_size, status.st_mtime_ns)
    assert stored.read_bytes() == b"an image in two parts"
    assert status.st_mode & 0o777 == 0o640


def chunks_cut_off() -> Iterator[bytes]:
    yield b"half an image"
    raise ConnectionError


def hand_in(folder: Path, chunks: Iterable[bytes], max_bytes: int = 100) -> None:
    with IncomingFile(folder, "image.png", max_bytes) as incoming:
        for chunk in chunks:
            incoming.write(chunk)
        incoming.finish()


def test_what_is_cut_off_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError):
        hand_in(tmp_path, chunks_cut_off())
    assert list(tmp_path.iterdir()) == []


def test_what_is_too_large_is_refused_before_it_is_all_there(tmp_path: Path) -> None:
    with pytest.raises(UploadRefused, match="more than 10 bytes") as refused:
        hand_in(tmp_path, [bytes(6), bytes(5)], max_bytes=10)
    assert refused.value.status == 413
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(upload_files.os, "fsync", full)
    with pytest.raises(UploadRefused, match="is full") as refused:
        hand_in(tmp_path, [b"image"])
    assert refused.value.status == 507
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "uploads").touch()
    with pytest.raises(UploadRefused, match="cannot be written to"):
        IncomingFile(tmp_path / "uploads", "image.png", 10)
