"""What is written down must be what is so."""

import re
import subprocess
import sys
from pathlib import Path

from formats import __main__ as formats

from pneumowatch.settings import document

ROOT = Path(__file__).parents[2]


def test_settings_are_documented_as_they_are() -> None:
    assert (ROOT / "docs" / "settings.md").read_text("utf-8") == document(), "run `make settings`"


def test_what_is_read_is_documented_as_it_is() -> None:
    """Also reads every film there, and fails where one is not as the page says."""
    assert formats.PAGE.read_text("utf-8") == formats.page(), "run `make formats`"


def test_the_tests_that_are_said_to_catch_complaints_exist() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text("utf-8")
    complaints = text.partition("What went wrong elsewhere")[2]
    rows = [line for line in complaints.splitlines() if re.match(r"\| \S+#\d+", line)]
    assert len(rows) == 12
    tests = [re.findall(r"`(tests/\S+)`", row) for row in rows]
    ids = [id_ for row in tests for id_ in row]
    assert all(tests)
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *ids]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
