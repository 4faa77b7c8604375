"""A certificate for loopback, made by openssl."""

import shutil
import subprocess
from pathlib import Path

from support.requirements import skip_or_fail
from support.services import HOST


def make_key_pair(folder: Path) -> tuple[Path, Path]:
    """Make PEM files with a self-signed certificate and its key.

    Without openssl the test is skipped on a developer's machine and fails under CI.
    """
    if shutil.which("openssl") is None:
        skip_or_fail("no openssl on PATH to make a certificate with")
    files = folder / "certificate.pem", folder / "certificate.key"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost -addext"
    names = f"subjectAltName=DNS:localhost,IP:{HOST}"
    command = ["openssl", *words.split(), names, "-out", files[0], "-keyout", files[1]]
    subprocess.run(command, check=True, capture_output=True)
    return files


def make_certificate(folder: Path) -> Path:
    """Make both in one file."""
    both = folder / "both.pem"
    both.write_bytes(b"".join(file.read_bytes() for file in make_key_pair(folder)))
    return both
