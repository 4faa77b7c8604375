"""Follow docs/operate/install.md on an empty Debian, by its lines alone, until images have results.

    python tests/empty_machine.py [--bind FOLDER ...]

Makes Debian 12 in a temporary folder, boots its systemd in namespaces, runs the commands under "A plain server", drops
phantom images and waits for their results. Needs root, debootstrap and systemd-nspawn (Debian: systemd-container),
about ten minutes, and the registries that pip and apt reach from here, whose settings are copied. The network is this
machine's: nothing else may listen on the ports of Redis, PostgreSQL and the review app.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from support.waiting import eventually

from pneumowatch.imaging.phantom import write_phantoms

ROOT: Final = Path(__file__).parents[1]
SECTION: Final = re.compile(r"## A plain server\n(.*?)\n## ", re.DOTALL)
BLOCK: Final = re.compile(r"^```\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMAND: Final = re.compile(r"^as_pneumowatch\(\) \{.*?^\}$", re.DOTALL | re.MULTILINE)
TAKEN_ALONG: Final = ("etc/pip.conf", "etc/ssl/certs/ca-certificates.crt", "etc/resolv.conf", "etc/apt/apt.conf.d")
CHECKOUT: Final = "usr/src/pneumowatch"  # on that machine
IMAGES: Final = 12
BOOT_SECONDS, SETUP_SECONDS, READ_SECONDS = 120, 1800, 60
PASSWORD: Final = "a sentence of some words\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bind", action="append", default=[], help="a folder that pip needs there as well, read-only")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pneumowatch-empty-") as name:
        box = Path(name) / "debian"
        make(box)
        with booted(box, given.bind) as leader:
            follow_the_document(box, leader)
            images_are_read(box, leader)


def make(box: Path) -> None:
    """Make an empty Debian with a checkout, and with this machine's settings for the registries."""
    tell("making an empty Debian 12")
    given = ("--variant=minbase", "--include=systemd,systemd-sysv,dbus,ca-certificates", "bookworm", box)
    subprocess.run(["debootstrap", *given], check=True, stdout=subprocess.DEVNULL)
    for name in TAKEN_ALONG:
        here, there = Path("/") / name, box / name
        if here.is_dir():
            shutil.copytree(here, there, dirs_exist_ok=True, symlinks=True)
        elif here.exists():
            shutil.copyfile(here, there)
    subprocess.run(["git", "clone", "--quiet", ROOT, box / CHECKOUT], check=True)


@contextmanager
def booted(box: Path, binds: list[str]) -> Iterator[int]:
    """Boot its systemd as the first process of its own namespaces; yield its process id here."""
    distinct = ["--register=no", "--keep-unit", *(f"--bind-ro={folder}" for folder in binds)]
    command = ["systemd-nspawn", f"--directory={box}", "--boot", *distinct]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **quiet) as nspawn:
        try:
            yield eventually(lambda: started(nspawn), BOOT_SECONDS, 1, "it does not boot")
        finally:
            nspawn.terminate()  # which powers it off


def started(nspawn: "subprocess.Popen[bytes]") -> int | None:
    if nspawn.poll() is not None:
        sys.exit(f"systemd-nspawn ended with {nspawn.returncode}; may this user make namespaces?")
    children = Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children").read_text("ascii").split()
    state = inside(int(children[0]), "systemctl is-system-running").stdout.strip() if children else ""
    return int(children[0]) if state in ("running", "degraded") else None


def inside(
    leader: int, script: str, seconds: float = READ_SECONDS, said: str = ""
) -> "subprocess.CompletedProcess[str]":
    """Run a command there, as root, in the checkout."""
    enter = ["nsenter", f"--target={leader}", "--mount", "--uts", "--ipc", "--pid", "--root", "--wd"]
    kept = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    env = kept | {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "DEBIAN_FRONTEND": "noninteractive"}
    command = [*enter, "bash", "-e", "-c", f"cd /{CHECKOUT}\n{script}"]
    return subprocess.run(command, input=said, env=env, capture_output=True, text=True, timeout=seconds)


def follow_the_document(box: Path, leader: int) -> None:
    tell("following docs/operate/install.md")
    section = SECTION.search((box / CHECKOUT / "docs" / "operate" / "install.md").read_text("utf-8"))
    assert section is not None
    done = inside(leader, "apt-get update\n" + "\n".join(BLOCK.findall(section[1])), SETUP_SECONDS, PASSWORD)
    print(done.stdout[-3000:])
    if done.returncode:
        sys.exit(f"A line of docs/operate/install.md failed:\n{done.stderr[-3000:]}")


def images_are_read(box: Path, leader: int) -> None:
    tell("dropping images")
    write_phantoms(box / "srv" / "inboxes" / "ward", IMAGES)
    command = COMMAND.search((ROOT / "docs" / "operate" / "install.md").read_text("utf-8"))
    assert command is not None

    def ask(words: str) -> Any:
        return json.loads(inside(leader, f"{command[0]}\nas_pneumowatch {words} --json").stdout or "null")

    def all_are_read() -> bool:
        counts = ask("status")["counts"]
        return bool(counts["classified"] + counts["rejected"] == IMAGES)

    eventually(all_are_read, READ_SECONDS, 1, "no results")
    flagged = ask("flagged")
    assert flagged, "no image is flagged"
    tell(f"{IMAGES} images have their results; {len(flagged)} of them are in the worklist")


def tell(words: str) -> None:
    print(f"== {words}", flush=True)


if __name__ == "__main__":
    main()
