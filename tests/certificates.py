"""A certificate for loopback, made by openssl."""

import shutil
import subprocess
from pathlib import Path

from lacking import lacking
from services import HOST


def pair(folder: Path) -> tuple[Path, Path]:
    """Files (PEM) with a certificate that vouches for itself, and with its key. Where there is no openssl, it skips at
    a desk and fails under CI."""
    if shutil.which("openssl") is None:
        lacking("no openssl on PATH to make a certificate with")
    files = folder / "certificate.pem", folder / "certificate.key"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost -addext"
    names = f"subjectAltName=DNS:localhost,IP:{HOST}"
    command = ["openssl", *words.split(), names, "-out", files[0], "-keyout", files[1]]
    subprocess.run(command, check=True, capture_output=True)
    return files


def certificate(folder: Path) -> Path:
    """Both in one file."""
    both = folder / "both.pem"
    both.write_bytes(b"".join(file.read_bytes() for file in pair(folder)))
    return both
