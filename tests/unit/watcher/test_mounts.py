"""The file system under an inbox, from the kernel's list of mounts."""

from pathlib import Path

import pytest

from watcher import mounts


def mount(point: str, kind: str, optional: str = "shared:1") -> str:
    """Return a line as in proc(5); the kernel writes blanks, tabs, newlines and backslashes of names in octal."""
    escaped = point.replace("\\", r"\134").replace(" ", r"\040").replace("\t", r"\011").replace("\n", r"\012")
    fields = [field for field in ("36", "35", "98:0", "/", escaped, "rw,noatime", optional) if field]
    return " ".join([*fields, "-", kind, "/dev/root", "rw,errors=continue"]) + "\n"


ROOT = mount("/", "ext4")


@pytest.mark.parametrize(
    "kind", ["nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "fuse", "overlay", "9p", "virtiofs", "autofs"]
)
def test_shares_do_not_tell(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = ROOT + mount("/mnt/images", kind)
    assert mounts.filesystem_type(Path("/mnt/images"), text) == kind
    assert mounts.filesystem_type(Path("/mnt/images/ward/3"), text) == kind
    assert mounts.filesystem_type(Path("/mnt"), text) == "ext4"
    monkeypatch.setattr(mounts, "_read_mounts", lambda: text)
    assert not mounts.events_suffice(Path("/mnt/images/ward"))
    assert mounts.events_suffice(Path("/mnt"))


@pytest.mark.parametrize(
    ("kind", "watching"),
    [("ext4", "events"), ("tmpfs", "events"), ("nfs4", "poll"), ("cifs", "poll"), ("fuse.sshfs", "poll"),
     ("unknown", "poll"), ("overlay", "both"), ("virtiofs", "both")],
)  # fmt: skip
def test_the_mount_decides_how_a_folder_is_watched(kind: str, watching: str) -> None:
    assert mounts.default_watch_mode(kind) == watching


def test_a_name_that_only_begins_alike_is_another_folder() -> None:
    assert mounts.filesystem_type(Path("/mnt/images2"), ROOT + mount("/mnt/images", "nfs4")) == "ext4"


def test_the_innermost_mount_counts_whatever_the_order() -> None:
    lines = [ROOT, mount("/mnt", "nfs4"), mount("/mnt/local", "xfs")]
    for text in ("".join(lines), "".join(reversed(lines))):
        assert mounts.filesystem_type(Path("/mnt/local/a"), text) == "xfs"
        assert mounts.filesystem_type(Path("/mnt/other"), text) == "nfs4"


def test_the_last_of_several_mounts_at_one_place_counts() -> None:
    assert mounts.filesystem_type(Path("/mnt/a"), ROOT + mount("/mnt", "autofs") + mount("/mnt", "nfs4")) == "nfs4"


@pytest.mark.parametrize(
    "name",
    ["two words", "a\tb", "a\nb", "back\\slash", r"\040", "röntgen", "x - y", "a\x0bb", "a\x85b", "a\u2028b", "#"],
)
def test_names_of_all_kinds(name: str) -> None:
    assert mounts.filesystem_type(Path("/mnt", name, "ward"), ROOT + mount(f"/mnt/{name}", "cifs")) == "cifs"


def test_a_name_that_is_no_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = tmp_path / "mountinfo"
    listing.write_bytes((ROOT + mount("/mnt/r@ntgen", "cifs")).encode().replace(b"@", b"\xf6"))
    monkeypatch.setattr(mounts, "_MOUNT_INFO", listing)
    assert mounts.filesystem_type(Path("/mnt/r\udcf6ntgen/ward")) == "cifs"


def test_no_optional_fields_or_several() -> None:
    assert mounts.filesystem_type(Path("/mnt"), mount("/mnt", "nfs4", "")) == "nfs4"
    assert mounts.filesystem_type(Path("/mnt"), mount("/mnt", "nfs4", "shared:1 master:2")) == "nfs4"


def test_links_are_followed_to_the_mount(tmp_path: Path) -> None:
    (tmp_path / "share").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "share")
    text = ROOT + mount(str(tmp_path.resolve() / "share"), "nfs4")
    assert mounts.filesystem_type(tmp_path / "link" / "ward", text) == "nfs4"


@pytest.mark.parametrize("text", ["", "\n", "nonsense\n", "1 2 3 4\n", "36 35 98:0 / /elsewhere rw - ext4 /dev rw\n"])
def test_what_is_not_told_is_unknown_and_not_trusted(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mounts.filesystem_type(Path("/mnt/images"), text) == "unknown"
    monkeypatch.setattr(mounts, "_read_mounts", lambda: text)
    assert not mounts.events_suffice(Path("/mnt/images"))


def test_without_a_list_of_mounts_nothing_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "_MOUNT_INFO", tmp_path / "missing")
    assert not mounts.events_suffice(tmp_path)


def test_this_machine_knows_what_lies_under_its_root() -> None:
    assert mounts.filesystem_type(Path("/")) != "unknown"
    assert mounts.filesystem_type(Path("/proc/self")) == "proc"
