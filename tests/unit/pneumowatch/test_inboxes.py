"""Which folders are watched, and the built-in one; a share that is away delays no other inbox."""

import os
import threading
from pathlib import Path

import pytest

from pneumowatch import inboxes
from pneumowatch.errors import SettingsError
from pneumowatch.settings import Settings


def without_uploads(chosen: dict[str, Path]) -> dict[str, Path]:
    return {name: folder for name, folder in chosen.items() if name != inboxes.UPLOADS}


def settings(tmp_path: Path, **named: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", inboxes=named)


def test_uploads_is_made_for_those_who_list_folders(tmp_path: Path) -> None:
    ward = tmp_path / "ward"
    ward.mkdir()
    given = settings(tmp_path, ward=ward)
    own = tmp_path / "data" / "uploads"
    assert inboxes.configured(given) == {"ward": ward}
    assert inboxes.validated(given) == {"ward": ward, "uploads": own}  # a worker reads there once there is something
    assert not own.exists()
    assert inboxes.watched(given) == {"ward": ward, "uploads": own}
    assert own.stat().st_mode & 0o007 == 0
    assert inboxes.configured(given) == {"ward": ward, "uploads": own}
    assert inboxes.configured(given, tmp_path / "other") == {"inbox": tmp_path / "other", "uploads": own}


def test_where_it_cannot_be_made_it_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "data").touch()  # no folder: as unwritable for root as for anybody
    given = settings(tmp_path, ward=tmp_path)
    assert inboxes.watched(given) == {"ward": tmp_path}


def test_it_may_lie_on_a_share(tmp_path: Path) -> None:
    given = settings(tmp_path, uploads=tmp_path / "share")
    assert inboxes.uploads_folder(given) == tmp_path / "share"
    assert inboxes.watched(given) == {"uploads": tmp_path / "share"}
    assert (tmp_path / "share").is_dir()
    assert not (tmp_path / "data").exists()


def test_any_other_inbox_must_be_there(tmp_path: Path) -> None:
    for choose in (inboxes.validated, inboxes.watched):
        with pytest.raises(SettingsError, match="'ward' is not there"):
            choose(settings(tmp_path, ward=tmp_path / "ward"))
    assert not (tmp_path / "data").exists()


def test_an_inbox_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"'ward' is not there: .*missing is not a folder"):
        inboxes.validated(Settings(inboxes={"ward": tmp_path / "missing"}))


def test_one_that_is_away_keeps_no_other_waiting(tmp_path: Path) -> None:
    given = {"er": tmp_path / "missing", "ward": tmp_path}
    assert without_uploads(inboxes.validated(Settings(inboxes=given))) == given


def test_one_that_was_there_before_will_be_again(tmp_path: Path) -> None:
    given = {"ward": tmp_path / "missing"}
    assert without_uploads(inboxes.validated(Settings(inboxes=given), known=given)) == given
    with pytest.raises(SettingsError):
        inboxes.validated(Settings(inboxes=given), known={"ward": tmp_path / "elsewhere"})


def test_one_that_does_not_answer_keeps_none_from_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr(inboxes, "STAT_TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(os.path, "isdir", lambda _: answered.wait(60))
    assert without_uploads(inboxes.validated(Settings(inboxes={"ward": tmp_path}))) == {"ward": tmp_path}
    answered.set()


def test_how_to_watch_an_inbox_that_is_none_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="'wrd', which is not an inbox here: ward"):
        inboxes.validated(Settings(inboxes={"ward": tmp_path}, watch_modes={"wrd": "poll"}))
