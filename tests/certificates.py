"""A certificate for loopback, made by openssl."""

import shutil
import subprocess
from pathlib import Path

import pytest
from services import HOST


def certificate(folder: Path) -> Path:
    """A file (PEM) with a certificate that vouches for itself, and its key. Skips where there is no openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on PATH")
    pem = folder / "both.pem"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=pacs -addext"
    subprocess.run(
        ["openssl", *words.split(), f"subjectAltName=IP:{HOST}", "-keyout", folder / "key", "-out", folder / "cert"],
        check=True,
        capture_output=True,
    )
    pem.write_bytes((folder / "cert").read_bytes() + (folder / "key").read_bytes())
    return pem
