"""A share goes away while images wait on it, and comes back: each has one result, and none is lost or doubled."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import shares
from support.services import Server

pytestmark = pytest.mark.slow  # shares away for seconds, and 160 images read again

IMAGES, SECONDS = 80, 3.0


def test_a_share_taken_away_and_brought_back(tmp_path: Path, own_redis: Server, postgres_database: str) -> None:
    """First the tree is gone; then an empty folder is in its place, as beneath a mount that has dropped."""
    answers = shares.story(tmp_path, IMAGES, SECONDS, ["renamed", "covered"], own_redis.url, postgres_database)
    assert shares.faults(answers) == [], answers["said"]
    assert answers["states"] == {"classified": 2 * IMAGES}
    assert "an inbox is unavailable; its scans wait" in answers["said"]
    assert "an inbox is available again" in answers["said"]


@pytest.mark.skipif(shutil.which("unshare") is None, reason="no unshare here")
def test_a_mount_taken_away_and_brought_back(own_redis: Server, postgres_database: str) -> None:
    private = ["unshare", "--mount", "--propagation", "private"]
    allowed = subprocess.run([*private, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True)
    if allowed.returncode:
        pytest.skip("mounting is not permitted here")
    command = [
        sys.executable,
        shares.__file__,
        "--ways",
        "unmounted",
        "--images",
        str(IMAGES),
        "--seconds",
        str(SECONDS),
    ]
    command += ["--redis", own_redis.url, "--postgres", postgres_database]
    done = subprocess.run([*private, *command], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    answers = json.loads(done.stdout)
    assert answers["states"] == {"classified": IMAGES}
    assert "nothing is mounted where it was (tmpfs)" in answers["said"]
