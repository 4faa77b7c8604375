"""Which folders are watched: a share that is away keeps no other inbox waiting."""

import os
import threading
from pathlib import Path

import pytest

from pneumowatch import inboxes
from pneumowatch.errors import SettingsError
from pneumowatch.settings import Settings


def test_an_inbox_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"'ward' is not there: .*missing is no folder"):
        inboxes.choose(Settings(inboxes={"ward": tmp_path / "missing"}))


def test_one_that_is_away_keeps_no_other_waiting(tmp_path: Path) -> None:
    given = {"er": tmp_path / "missing", "ward": tmp_path}
    assert inboxes.choose(Settings(inboxes=given)) == given


def test_one_that_was_there_before_will_be_again(tmp_path: Path) -> None:
    given = {"ward": tmp_path / "missing"}
    assert inboxes.choose(Settings(inboxes=given), known=given) == given
    with pytest.raises(SettingsError):
        inboxes.choose(Settings(inboxes=given), known={"ward": tmp_path / "elsewhere"})


def test_one_that_does_not_answer_keeps_none_from_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr(inboxes, "ANSWER_SECONDS", 0.1)
    monkeypatch.setattr(os.path, "isdir", lambda _: answered.wait(60))
    assert inboxes.choose(Settings(inboxes={"ward": tmp_path})) == {"ward": tmp_path}
    answered.set()


def test_how_to_watch_an_inbox_that_is_none_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="'wrd', which is no inbox here: ward"):
        inboxes.choose(Settings(inboxes={"ward": tmp_path}, watching={"wrd": "poll"}))
