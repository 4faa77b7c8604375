"""Watchers that notice at once what they else notice within half a second: most of these tests' time was that."""

import pytest


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("watcher.intake.IDLE_SECONDS", 0.05)
