"""Describe the machine and the commit that the figures were measured on."""

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

ROOT = Path(__file__).parents[2]


def describe() -> dict[str, str]:
    kibibytes = int(_first(Path("/proc/meminfo"), r"MemTotal:\s*(\d+)"))
    return {
        "processor": _first(Path("/proc/cpuinfo"), r"model name\s*: (.+)"),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{kibibytes / 2**20:.0f} GiB",
        "Linux": platform.release(),
        "Python": platform.python_version(),
        **{name: _version(name) for name in ("tensorflow", "keras", "celery", "numpy", "pillow")},
    }


def commit() -> str:
    """Return the measured commit, with `+` if the working tree differs from it in more than the generated page."""
    try:
        revision = _git("rev-parse", "--short=10", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs/evidence/benchmarks.md")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return revision + ("+" if changed else "")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def _first(path: Path, pattern: str) -> str:
    found = re.search(pattern, path.read_text("utf-8"))
    return found.group(1).strip() if found else "unknown"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # tensorflow-cpu and other builds provide the package under another name
        builds = packages_distributions().get(name)
        return f"{version(builds[0])} ({builds[0]})" if builds else "not installed"
