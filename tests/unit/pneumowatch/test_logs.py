"""What a log line may contain: file names carry patients' names, and settings carry passwords."""

import subprocess
import sys

import pytest

TROUBLE = """
import logging
import sys
from pneumowatch import logs

logs.configure(sys.argv[1])

def read(path):
    raise ValueError("cannot be read")

for log in (logs.get_logger("worker").exception, logging.getLogger("celery").exception):
    try:
        read(bytes(c - 1 for c in b"EPF`KPIO/kqfh"))  # so that the name stands in no line of code
    except ValueError:
        log("trouble")
logs.get_logger("worker").warning("told")
logging.getLogger("celery").info("not told")
"""


@pytest.fixture(scope="module", params=["console", "json"])
def said(request: pytest.FixtureRequest) -> str:
    done = subprocess.run([sys.executable, "-c", TROUBLE, request.param], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return done.stderr


def test_trouble_is_told_with_its_traceback(said: str) -> None:
    assert said.count("cannot be read") >= 2
    assert "ValueError" in said
    assert "told" in said
    assert "not told" not in said


def test_what_goes_to_no_terminal_bears_no_colours(said: str) -> None:
    assert "\x1b" not in said


def test_a_traceback_shows_no_variables(said: str) -> None:
    assert "DOE_JOHN" not in said
