from pathlib import Path

import pytest

from watcher.mounts import TELLING, kind

MOUNTS = """\
22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /mnt/ward rw - nfs4 server:/ward rw
31 30 0:41 / /mnt/ward/fast rw - tmpfs tmpfs rw
32 22 0:42 / /mnt/x\\040ray rw - cifs //server/xray rw
33 22 0:43 / /mnt/sshfs rw shared:2 master:3 - fuse.sshfs user@host: rw
nonsense
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/films", "ext4"),
        ("/mnt/ward", "nfs4"),
        ("/mnt/ward/room 1", "nfs4"),
        ("/mnt/wardens", "ext4"),
        ("/mnt/ward/fast/films", "tmpfs"),
        ("/mnt/x ray/films", "cifs"),
        ("/mnt/sshfs", "fuse.sshfs"),
    ],
)
def test_the_nearest_mount_decides(path: str, expected: str) -> None:
    assert kind(Path(path), MOUNTS) == expected


def test_where_nothing_is_told_events_are_not_trusted() -> None:
    assert kind(Path("/films"), "") == "unknown"
    assert "unknown" not in TELLING


def test_network_file_systems_are_not_trusted() -> None:
    assert not TELLING & {"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "overlay", "9p"}
