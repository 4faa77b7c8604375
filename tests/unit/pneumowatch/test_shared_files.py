"""Reading beneath a folder that others write to: no link leads out, nothing blocks, and each fault has a name."""

import errno
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pneumowatch import mount_identity, shared_files
from pneumowatch.errors import ImageRejected, ShareUnavailable

BOUND = 1000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"outside")
    return folder


@pytest.fixture(autouse=True)
def no_descriptor_is_left_open() -> Iterator[None]:
    before = len([*Path("/proc/self/fd").iterdir()])
    yield
    assert len([*Path("/proc/self/fd").iterdir()]) == before


def refusal(root: Path, path: bytes, max_bytes: int = BOUND) -> str:
    with pytest.raises(ImageRejected) as caught:
        shared_files.read_file(root, path, max_bytes)
    assert caught.value.sentence.endswith(".")
    return caught.value.reason


def test_a_file_with_its_identity(root: Path) -> None:
    file = root / "ward" / "röntgen.png"
    file.parent.mkdir()
    file.write_bytes(b"pixels")
    os.utime(file, ns=(1, 1_234_567_890_123_456_789))
    read = shared_files.read_file(root, os.fsencode("ward/röntgen.png"), BOUND)
    assert (read.data, read.size, read.mtime_ns) == (b"pixels", 6, 1_234_567_890_123_456_789)


def test_names_that_are_no_utf8(root: Path) -> None:
    (Path(os.fsdecode(os.fsencode(root) + b"/r\xf6\n.png"))).write_bytes(b"pixels")
    assert shared_files.read_file(root, b"r\xf6\n.png", BOUND).data == b"pixels"


def test_a_path_longer_than_the_kernel_takes_at_once(root: Path) -> None:
    parts = [b"x" * 250] * 20
    here = os.open(root, os.O_RDONLY)
    for part in parts:
        os.mkdir(part, dir_fd=here)
        below = os.open(part, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open(b"a.png", os.O_WRONLY | os.O_CREAT, dir_fd=here))
    os.close(here)
    assert shared_files.read_file(root, b"/".join([*parts, b"a.png"]), BOUND).data == b""


def test_an_empty_file_is_read(root: Path) -> None:
    (root / "a").touch()
    assert shared_files.read_file(root, b"a", BOUND).data == b""


@pytest.mark.parametrize(
    "path", [b"../secret", b"ward/../../secret", b"/etc/passwd", b"", b".", b"..", b"ward//a", b"a/", b"./a", b"a\0b"]
)
def test_no_path_leads_out(root: Path, path: bytes) -> None:
    (root / "ward").mkdir()
    (root / "a").write_bytes(b"inside")
    assert refusal(root, path) == "not_a_file"


def test_a_link_to_a_file_is_not_followed(root: Path) -> None:
    (root / "outside").symlink_to("../secret")
    (root / "a").write_bytes(b"inside")
    (root / "inside").symlink_to("a")
    (root / "nowhere").symlink_to("nothing")
    for name in (b"outside", b"inside", b"nowhere"):
        assert refusal(root, name) == "not_a_file"


def test_a_link_to_a_folder_is_not_followed(root: Path) -> None:
    (root / "up").symlink_to("..")
    assert refusal(root, b"up/secret") in {"not_a_file", "vanished"}
    assert refusal(root, b"up") == "not_a_file"


def test_the_inbox_itself_may_be_a_link(root: Path, tmp_path: Path) -> None:
    (root / "a").write_bytes(b"pixels")
    (tmp_path / "link").symlink_to(root)
    assert shared_files.read_file(tmp_path / "link", b"a", BOUND).data == b"pixels"


def test_a_pipe_is_not_waited_for(root: Path) -> None:
    os.mkfifo(root / "pipe")
    reasons: list[str] = []
    thread = threading.Thread(target=lambda: reasons.append(refusal(root, b"pipe")), daemon=True)
    thread.start()
    thread.join(60)
    assert reasons == ["not_a_file"]


def test_folders_sockets_and_devices_are_no_files(root: Path) -> None:
    (root / "folder").mkdir()
    assert refusal(root, b"folder") == "not_a_file"
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(root / "socket"))
        assert refusal(root, b"socket") == "not_a_file"
    assert refusal(Path("/dev"), b"null") == "not_a_file"


def test_a_file_within_the_bound_and_one_beyond(root: Path) -> None:
    (root / "fits").write_bytes(bytes(BOUND))
    (root / "beyond").write_bytes(bytes(BOUND + 1))
    assert len(shared_files.read_file(root, b"fits", BOUND).data) == BOUND
    assert refusal(root, b"beyond") == "too_large"


def test_a_huge_sparse_file_is_not_read(root: Path) -> None:
    with (root / "huge").open("wb") as file:
        file.truncate(2**40)
    assert refusal(root, b"huge", 512 * 2**20) == "too_large"


def growing(monkeypatch: pytest.MonkeyPatch, file: Path, growth: int) -> list[int]:
    """Grow the file by `growth` bytes before each of the first ten reads. Return the list of bytes read at a time."""
    read, sizes = os.read, []

    def grow(descriptor: int, count: int) -> bytes:
        if len(sizes) < 10:
            with file.open("ab") as writer:
                writer.write(bytes(growth))
        chunk = read(descriptor, count)
        sizes.append(len(chunk))
        return chunk

    monkeypatch.setattr(os, "read", grow)
    return sizes


def test_a_file_that_grows_is_read_with_the_identity_at_the_end(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "a").write_bytes(b"x")
    growing(monkeypatch, root / "a", 10)
    read = shared_files.read_file(root, b"a", BOUND)
    status = (root / "a").stat()
    assert len(read.data) == read.size == status.st_size == 101
    assert read.mtime_ns == status.st_mtime_ns


def test_a_file_that_grows_beyond_the_bound(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "a").touch()
    growing(monkeypatch, root / "a", BOUND // 5)
    assert refusal(root, b"a") == "too_large"


def test_a_file_that_grows_is_not_read_byte_by_byte(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image of 100 MB that was empty when it was opened would take a hundred million calls."""
    (root / "a").touch()
    sizes = growing(monkeypatch, root / "a", 10_000)
    assert len(shared_files.read_file(root, b"a", 10**6).data) == 100_000
    assert len(sizes) < 30


def test_a_file_that_is_gone(root: Path) -> None:
    assert refusal(root, b"a") == "vanished"
    assert refusal(root, b"ward/a") == "vanished"
    (root / "ward").touch()
    assert refusal(root, b"ward/a") == "vanished"


def test_a_missing_inbox_is_a_share_that_is_away(tmp_path: Path) -> None:
    with pytest.raises(ShareUnavailable):
        shared_files.read_file(tmp_path / "missing", b"a", BOUND)


def test_an_inbox_that_is_a_file_is_a_share_that_is_away(tmp_path: Path) -> None:
    (tmp_path / "inbox").touch()
    with pytest.raises(ShareUnavailable):
        shared_files.read_file(tmp_path / "inbox", b"a", BOUND)


READ_AS_NOBODY = """
import os, sys
from pathlib import Path
from pneumowatch import shared_files
from pneumowatch.errors import PneumowatchError
root = os.open(sys.argv[1], os.O_RDONLY)
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    print(shared_files.read_file(Path(f"/proc/self/fd/{root}", sys.argv[2]), os.fsencode(sys.argv[3]), 1000).data)
except PneumowatchError as error:
    print(getattr(error, "reason", type(error).__name__))
"""


def read_as_nobody(folder: Path, root: str, path: str) -> str:
    """Read as another user where this is root, whom no permission stops; it gets the folder open, as the temporary
    folders above it are this user's alone."""
    command = [sys.executable, "-c", READ_AS_NOBODY, folder, root, path]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_without_permission(root: Path) -> None:
    root.chmod(0o755)
    (root / "open").write_bytes(b"pixels")
    (root / "open").chmod(0o644)
    (root / "closed").touch()
    (root / "closed").chmod(0)
    (root / "ward").mkdir()
    (root / "ward" / "a").touch()
    (root / "ward").chmod(0)
    assert read_as_nobody(root, ".", "open") == "b'pixels'"
    assert read_as_nobody(root, ".", "closed") == "no_permission"
    assert read_as_nobody(root, ".", "ward/a") == "no_permission"


def test_an_inbox_without_permission_says_nothing_of_its_files(root: Path) -> None:
    """A mount's credentials expired: its images must wait, not be rejected one by one."""
    root.chmod(0o755)
    (root / "inner").mkdir()
    (root / "inner" / "a").touch()
    (root / "inner").chmod(0)
    assert read_as_nobody(root, "inner", "a") == "ShareUnavailable"


AWAY = ["EIO", "ESTALE", "EBUSY", "ETIMEDOUT", "ENOTCONN", "EHOSTDOWN"]
OURS = ["EMFILE", "ENFILE", "ENOMEM"]


@pytest.mark.parametrize("fault", [*AWAY, *OURS, "ENETUNREACH", "EHOSTUNREACH", "ECONNRESET", "EREMOTEIO"])
@pytest.mark.parametrize("call", ["open", "read", "fstat"])
def test_faults_that_say_nothing_of_the_file(
    root: Path, monkeypatch: pytest.MonkeyPatch, fault: str, call: str
) -> None:
    (root / "a").write_bytes(b"pixels")
    real = getattr(os, call)

    def fail(*args: Any, **kwargs: Any) -> Any:
        if call != "open" or "dir_fd" in kwargs:
            raise OSError(getattr(errno, fault), os.strerror(getattr(errno, fault)))
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(ShareUnavailable):
            shared_files.read_file(root, b"a", BOUND)


def test_sentences_name_no_file(root: Path) -> None:
    (root / "DOE_JOHN.dcm").write_bytes(bytes(BOUND + 1))
    for path in (b"DOE_JOHN.dcm", b"DOE_JOHN.png", b"../DOE_JOHN"):
        with pytest.raises(ImageRejected) as caught:
            shared_files.read_file(root, path, BOUND)
        assert "DOE" not in str(caught.value)


def test_nothing_in_the_folder_is_changed(root: Path) -> None:
    (root / "a").write_bytes(b"pixels")
    before = (root / "a").stat()
    shared_files.read_file(root, b"a", BOUND)
    after = (root / "a").stat()
    kept = ("st_mtime_ns", "st_ctime_ns", "st_size", "st_mode")
    assert [getattr(after, name) for name in kept] == [getattr(before, name) for name in kept]
    assert stat.S_ISREG(after.st_mode)


def test_a_link_put_in_the_place_of_a_folder_in_between_is_never_followed(root: Path, tmp_path: Path) -> None:
    """Somebody with write access swaps a folder for a link and back, as fast as can be, while images are read."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "image.png").write_bytes(b"outside")
    ward, hidden, link = root / "ward", root / ".ward", root / ".link"
    ward.mkdir()
    (ward / "image.png").write_bytes(b"inside")
    link.symlink_to(outside)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            ward.rename(hidden)
            link.rename(ward)
            ward.rename(link)
            hidden.rename(ward)

    swapper = threading.Thread(target=swap)
    swapper.start()
    seen = set()
    try:
        for _ in range(3000):
            try:
                seen.add(shared_files.read_file(root, b"ward/image.png", BOUND).data)
            except ImageRejected as fault:
                seen.add(fault.reason.encode())
    finally:
        stop.set()
        swapper.join()
    assert b"inside" in seen
    assert seen <= {b"inside", b"vanished", b"not_a_file"}


def test_each_piece_of_an_image_shows_that_the_share_moves(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_files, "READ_CHUNK", 400)
    (root / "a").write_bytes(b"x" * 1000)
    moves: list[None] = []
    assert shared_files.read_file(root, b"a", BOUND, lambda: moves.append(None)).data == b"x" * 1000
    assert len(moves) == 3


def test_a_missing_file_tells_in_what_it_is_missing(root: Path) -> None:
    for path in (b"missing", b"ward/missing", b"no-folder/a"):
        with pytest.raises(shared_files.FileVanished) as caught:
            shared_files.read_file(root, path, BOUND)
        assert caught.value.folder == mount_identity.identify_folder(root)


def test_an_image_stands_where_it_is_as_it_was(root: Path) -> None:
    (root / "a").write_bytes(b"image")
    mtime_ns = (root / "a").stat().st_mtime_ns
    assert shared_files.is_unchanged(root, b"a", 5, mtime_ns)
    assert not shared_files.is_unchanged(root, b"a", 6, mtime_ns)
    assert not shared_files.is_unchanged(root, b"a", 5, mtime_ns + 1)
    assert not shared_files.is_unchanged(root, b"missing", 5, mtime_ns)
    (root / "link").symlink_to("a")
    assert not shared_files.is_unchanged(root, b"link", 5, mtime_ns)
