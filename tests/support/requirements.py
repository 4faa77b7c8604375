"""Skip or fail a test where the machine lacks what it needs."""

import os
from typing import NoReturn

import pytest


def skip_or_fail(what: str) -> NoReturn:
    """Skip the test on a developer's machine; fail it under CI, where everything must be there."""
    if os.environ.get("CI"):
        pytest.fail(f"{what}; under CI it must be there")
    pytest.skip(what)
