"""Identity of a folder: the same wherever and whenever it is mounted, and never that of the mount point beneath."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pneumowatch import mount_identity
from pneumowatch.mount_identity import MountedFolder

NFS = MountedFolder("nfs4", "/mnt/images", "nfs4 server:/images / 7")


def test_a_folder_stays_where_it_is(tmp_path: Path) -> None:
    before = mount_identity.identify_folder(tmp_path)
    (tmp_path / "a.png").write_bytes(b"image")
    (tmp_path / "ward").mkdir()
    assert mount_identity.identify_folder(tmp_path) == before
    assert mount_identity.identify_folder(tmp_path / "ward") != before
    assert before.kind in before.identity


def test_a_link_to_a_folder_is_where_the_folder_is(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    (tmp_path / "link").symlink_to("inbox")
    assert mount_identity.identify_folder(tmp_path / "link") == mount_identity.identify_folder(tmp_path / "inbox")


def test_an_empty_folder_made_in_a_trees_place_is_another(tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    before = mount_identity.identify_folder(inbox)
    inbox.rename(tmp_path / "moved")
    inbox.mkdir()
    assert mount_identity.identify_folder(inbox) != before
    inbox.rmdir()
    (tmp_path / "moved").rename(inbox)
    assert mount_identity.identify_folder(inbox) == before


@pytest.mark.parametrize("name", [b"r\xf6ntgen", b"two words", b"new\nline", b"back\\040slash"])
def test_names_of_all_kinds_can_be_stored(tmp_path: Path, name: bytes) -> None:
    folder = Path(os.fsdecode(bytes(tmp_path) + b"/" + name))
    folder.mkdir()
    mount_identity.identify_folder(folder).identity.encode("utf-8")


def test_what_is_no_folder_has_no_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("file", "missing"):
        with pytest.raises(OSError, match=r"\["):
            mount_identity.identify_folder(tmp_path / name)


@pytest.mark.parametrize(
    ("mount_point", "beneath"),
    [("/", True), ("/mnt", True), ("/mnt/images", False), ("/mnt/images/ward", False), ("/mnt/image", False)],
)
def test_what_lies_beneath_a_mount(mount_point: str, beneath: bool) -> None:
    assert MountedFolder("ext4", mount_point, "any").beneath("/mnt/images") is beneath


MOUNT_TWICE = """
import subprocess, sys
from pathlib import Path
from pneumowatch import mount_identity
def run(*words): subprocess.run(words, check=True)
folder = Path(sys.argv[1])
disk, inbox, other = folder / "disk", folder / "inbox", folder / "other"
for one in (disk, inbox, other): one.mkdir()
run("mount", "-t", "tmpfs", "tmpfs", disk)
(disk / "images").mkdir()
beneath = mount_identity.identify_folder(inbox)
run("mount", "--bind", disk / "images", inbox)
first = mount_identity.identify_folder(inbox)
run("umount", inbox)
unmounted = mount_identity.identify_folder(inbox)
print(unmounted == beneath != first, unmounted.beneath(first.mount_point))
run("mount", "--bind", disk / "images", inbox)
run("mount", "--bind", disk / "images", other)
elsewhere = mount_identity.identify_folder(other)
print(mount_identity.identify_folder(inbox) == first, elsewhere.identity == first.identity, first.kind)
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="no unshare here")
def test_real_mounts(tmp_path: Path) -> None:
    """The same folder mounted again, or elsewhere, is the same place; the mount point beneath is another."""
    words = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", MOUNT_TWICE, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True)
    if "permi" in done.stderr or "not permitted" in done.stderr:
        pytest.skip("mounting is not permitted here")
    assert done.stdout.splitlines() == ["True True", "True True tmpfs"], done.stderr
