"""Settings from the environment: defaults that work, and errors that name the bad value."""

import os
from contextlib import closing
from pathlib import Path

import pytest
from pydantic import ValidationError
from sqlalchemy import text

from db.session import Database
from pneumowatch import settings
from pneumowatch.errors import SettingsError
from pneumowatch.settings import Settings, load_settings, parse_inboxes


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("PNEUMOWATCH_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def with_environment(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(f"PNEUMOWATCH_{name}", value)
    return load_settings()


def complaint(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> str:
    with pytest.raises(SettingsError) as caught:
        with_environment(monkeypatch, **{name: value})
    return str(caught.value)


def test_the_embedded_defaults(tmp_path: Path) -> None:
    given = load_settings()
    assert given.inboxes == {}
    assert given.embedded_queue
    assert given.database == f"sqlite:///{tmp_path / 'data' / 'pneumowatch.db'}"
    assert given.models == Path("data/models")
    assert 1 <= given.decoder_count <= 8


def test_a_deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    given = with_environment(
        monkeypatch,
        INBOXES="ward=/inboxes/ward,er=/inboxes/er",
        DATABASE_URL="postgresql://host/name",
        BROKER_URL="redis://host/0",
        MODEL_DIR="/models",
        SETTLE_SECONDS="0.5",
        DECODERS="3",
        LOG_FORMAT="json",
    )
    assert given.inboxes == {"ward": Path("/inboxes/ward"), "er": Path("/inboxes/er")}
    assert (given.database, given.models) == ("postgresql://host/name", Path("/models"))
    assert (given.embedded_queue, given.settle_seconds, given.decoder_count) == (False, 0.5, 3)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", {}),
        (" , ", {}),
        ("a=/x", {"a": "/x"}),
        ("a=/x, b=/y,", {"a": "/x", "b": "/y"}),
        ("a= /x ", {"a": "/x"}),
        ("a=/x=y", {"a": "/x=y"}),
        ("a=/two words", {"a": "/two words"}),
        ("ward-3_b=/x", {"ward-3_b": "/x"}),
        (f"{'a' * 63}=/x", {"a" * 63: "/x"}),
    ],
)
def test_inboxes(value: str, expected: dict[str, str]) -> None:
    assert parse_inboxes(value) == {name: Path(path) for name, path in expected.items()}


def test_an_inbox_relative_to_where_the_program_was_started(tmp_path: Path) -> None:
    assert parse_inboxes("a=images") == {"a": tmp_path / "images"}


@pytest.mark.parametrize(
    "value",
    ["/x", "a", "a=", "a= ", "=/x", "A=/x", "two words=/x", "-a=/x", "ä=/x", "a/b=/x", f"{'a' * 64}=/x", "a=/x,a=/y"],
)
def test_inboxes_that_cannot_be_used_are_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    with pytest.raises(ValueError, match="'"):
        parse_inboxes(value)
    assert "PNEUMOWATCH_INBOXES" in complaint(monkeypatch, "INBOXES", value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SETTLE_SECONDS", "soon"),
        ("SETTLE_SECONDS", "-1"),
        ("SETTLE_SECONDS", "nan"),
        ("SETTLE_SECONDS", "inf"),
        ("LEASE_SECONDS", "inf"),
        ("LEASE_SECONDS", "0"),
        ("RESCAN_SECONDS", "0"),
        ("SWEEP_SECONDS", "nan"),
        ("BATCH_SIZE", "0"),
        ("BATCH_SIZE", "1025"),
        ("BATCH_SIZE", "1.5"),
        ("MAX_ATTEMPTS", "0"),
        ("DECODERS", "-1"),
        ("MAX_BYTES", "0"),
        ("OUTSIDE_AGE", "ignore"),
        ("LOG_FORMAT", "xml"),
        ("LOG_FORMAT", "jsonx"),
    ],
)
def test_a_bad_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    assert f"PNEUMOWATCH_{name}:" in complaint(monkeypatch, name, value)


def test_all_bad_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PNEUMOWATCH_DECODERS", "many")
    said = complaint(monkeypatch, "BATCH_SIZE", "none")
    assert "PNEUMOWATCH_BATCH_SIZE" in said
    assert "PNEUMOWATCH_DECODERS" in said


@pytest.mark.parametrize("name", ["DATA_DIR", "MODEL_DIR", "DATABASE_URL", "BROKER_URL", "INBOXES", "BATCH_SIZE"])
def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Compose files leave such variables; an empty MODEL_DIR does not mean models in the current folder."""
    default = load_settings()
    given = with_environment(monkeypatch, **{name: ""})
    assert given == default
    assert given.models == Path("data/models")


def test_a_secret_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("postgresql://user:word@host/name\n", "utf-8")
    given = with_environment(monkeypatch, DATABASE_URL_FILE=str(tmp_path / "secret"))
    assert given.database == "postgresql://user:word@host/name"


@pytest.mark.parametrize(("direct", "expected"), [("redis://direct/0", "redis://direct/0"), ("", "redis://file/0")])
def test_a_secret_given_directly_wins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, direct: str, expected: str
) -> None:
    (tmp_path / "secret").write_text("redis://file/0", "utf-8")
    given = with_environment(monkeypatch, BROKER_URL=direct, BROKER_URL_FILE=str(tmp_path / "secret"))
    assert given.broker_url == expected


def test_a_secret_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "PNEUMOWATCH_BROKER_URL_FILE" in complaint(monkeypatch, "BROKER_URL_FILE", str(tmp_path / "missing"))
    assert "PNEUMOWATCH_BROKER_URL_FILE" in complaint(monkeypatch, "BROKER_URL_FILE", str(tmp_path))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    assert "PNEUMOWATCH_BROKER_URL_FILE" in complaint(monkeypatch, "BROKER_URL_FILE", str(tmp_path / "binary"))


def test_complaints_show_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PNEUMOWATCH_DATABASE_URL", "postgresql://user:word@host/name")
    assert "word" not in complaint(monkeypatch, "BATCH_SIZE", "0")


def test_options_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PNEUMOWATCH_BATCH_SIZE", "8")
    assert load_settings(batch_size=16).batch_size == 16
    assert load_settings(batch_size=None).batch_size == 8
    with pytest.raises(SettingsError, match="PNEUMOWATCH_BATCH_SIZE"):
        load_settings(batch_size=0)


def test_nothing_changes_once_read() -> None:
    given = load_settings()
    with pytest.raises(ValidationError, match="frozen"):
        given.batch_size = 3


@pytest.mark.parametrize("name", ["two words", "röntgen", "a%20b", "a?b", "a#b", "a;b", "a@b:c"])
def test_a_data_folder_with_any_name(tmp_path: Path, name: str) -> None:
    """The database is made in it and nowhere else."""
    folder = tmp_path / name
    folder.mkdir()
    with closing(Database(load_settings(data_dir=folder).database)) as database:
        database.write(lambda connection: connection.execute(text("CREATE TABLE t (n int)")))
    assert (folder / "pneumowatch.db").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_document_tells_of_every_setting() -> None:
    page = settings.render_settings_page()
    assert all(f"`PNEUMOWATCH_{name.upper()}`" in page for name in Settings.model_fields)
    assert all(field.description for field in Settings.model_fields.values())


def test_how_inboxes_are_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    assert with_environment(monkeypatch, WATCH_MODES="ward=poll, er = events,").watch_modes == {
        "ward": "poll",
        "er": "events",
    }


@pytest.mark.parametrize("value", ["ward", "ward=", "ward=inotify", "poll"])
def test_a_way_of_watching_that_there_is_not(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    said = complaint(monkeypatch, "WATCH_MODES", value)
    assert "PNEUMOWATCH_WATCH_MODES" in said
    assert "events, poll, both" in said


@pytest.mark.parametrize("link", ["https://viewer/?study={study_uid}", "weasis:{study_uid}"])
def test_a_link_to_a_viewer(link: str) -> None:
    assert Settings(viewer_url=link).viewer_url == link


@pytest.mark.parametrize(
    "link", ["https://viewer/", "javascript:alert('{study_uid}')", "data:,{study_uid}", "{study_uid}"]
)
def test_what_is_no_link_to_a_viewer(monkeypatch: pytest.MonkeyPatch, link: str) -> None:
    monkeypatch.setenv("PNEUMOWATCH_VIEWER_URL", link)
    with pytest.raises(SettingsError, match="PNEUMOWATCH_VIEWER_URL"):
        load_settings()
