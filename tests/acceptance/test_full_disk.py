"""A full disk under the image store, in a real process: no result is lost, and it is reported once."""

import shutil
import sqlite3
import subprocess
from pathlib import Path
from typing import Final

import pytest
from support.programs import COMMAND, COMMAND_SECONDS, environment

pytestmark = pytest.mark.slow  # loads TensorFlow over a disk of its own

DISK_SIZE: Final = "96k"  # for two or three images with their maps
# mounts a tiny disk, in a mount namespace of its own, then runs what it is given
SMALL_DISK: Final = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@"'


def on_a_small_disk(folder: Path, *words: object) -> list[str]:
    return ["unshare", "-m", "sh", "-c", SMALL_DISK, "sh", DISK_SIZE, str(folder), *map(str, words)]


@pytest.fixture
def images_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "images"
    folder.mkdir(parents=True)
    if (
        shutil.which("unshare") is None
        or subprocess.run(on_a_small_disk(folder, "true"), capture_output=True).returncode
    ):
        pytest.skip("no disk can be mounted here")
    return folder


def test_images_that_cannot_be_kept_cost_no_result(images_folder: Path, phantoms: Path) -> None:
    data, inbox = images_folder.parent, images_folder.parents[1] / "inbox"
    shutil.copytree(phantoms, inbox)
    count = len(list(inbox.iterdir()))
    counted = 'ls "$0" | grep -vc map'
    up = [*COMMAND, "up", "--once", "--inbox", inbox, "--data", data]
    both = on_a_small_disk(images_folder, "sh", "-c", f'"$@"; code=$?; {counted}; exit $code', images_folder, *up)
    env = environment(keep_images="all", batch_size=3)
    ended = subprocess.run(both, cwd=data.parent, env=env, capture_output=True, text=True, timeout=COMMAND_SECONDS)
    assert ended.returncode == 0, ended.stderr
    with sqlite3.connect(data / "pneumowatch.db") as connection:
        states = connection.execute("SELECT state, count(*) FROM scan_ledger GROUP BY state").fetchall()
    connection.close()
    assert states == [("classified", count)]
    assert 0 < int(ended.stdout.split()[-1]) < count  # or the disk was not full
    assert ended.stderr.count("images cannot be kept") == 1
    assert "phantom" not in ended.stderr
