"""The patient key: one for all components, readable by its owner only, and each fault with it is reported."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pneumowatch import patient_hashing
from pneumowatch.errors import SettingsError
from pneumowatch.settings import Settings


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "patient.key"


def test_it_is_made_once_and_read_from_then_on(file: Path) -> None:
    key = patient_hashing.read_or_create_key(file)
    assert len(key) == 32
    assert patient_hashing.read_or_create_key(file) == patient_hashing.read_key(file) == key
    assert file.read_text("ascii") == key.hex() + "\n"


def test_each_deployment_has_its_own(tmp_path: Path) -> None:
    assert len({patient_hashing.read_or_create_key(tmp_path / name) for name in "abc"}) == 3


def test_only_its_owner_may_read_it_whatever_the_umask(file: Path) -> None:
    before = os.umask(0)
    try:
        patient_hashing.read_or_create_key(file)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_components_that_start_at_once_agree(file: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        keys = set(pool.map(lambda _: patient_hashing.read_or_create_key(file), range(64)))
    assert keys == {patient_hashing.read_key(file)}
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_component_that_was_slower_takes_the_others_key(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It saw no key; when its own is ready to be stored, another's is already there."""
    key = patient_hashing.read_or_create_key(file)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert patient_hashing.read_or_create_key(file) == key
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize(
    "text", ["", "\n", "ab" * 31, "ab" * 33, "no hexadecimal digits at all".ljust(64, "z"), "ä" * 64]
)
def test_a_damaged_one_is_refused_and_kept(file: Path, text: str) -> None:
    file.write_text(text, "utf-8")
    with pytest.raises(SettingsError, match="damaged") as caught:
        patient_hashing.read_or_create_key(file)
    assert str(file) in str(caught.value)
    assert not text.strip() or text not in str(caught.value)
    assert file.read_text("utf-8") == text


def test_white_space_around_it_and_capitals_do_not_matter(file: Path) -> None:
    file.write_text(f"\n {'AB' * 32} \r\n", "ascii")
    assert patient_hashing.read_key(file) == b"\xab" * 32


def test_one_that_is_missing_where_it_must_be_there(file: Path) -> None:
    with pytest.raises(SettingsError, match=r"missing.*PNEUMOWATCH_PATIENT_KEY_FILE"):
        patient_hashing.read_key(file)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be made: No such file or directory"):
        patient_hashing.read_or_create_key(tmp_path / "nowhere" / "patient.key")


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        patient_hashing.read_or_create_key(tmp_path)


def test_a_file_system_without_hard_links_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(SettingsError, match="cannot be made: Operation not permitted"):
        patient_hashing.read_or_create_key(file)
    assert list(file.parent.iterdir()) == []


def test_where_it_lies(tmp_path: Path) -> None:
    assert Settings(data_dir=tmp_path).patient_key_path == tmp_path / "patient.key"
    named = Settings(data_dir=tmp_path, patient_key_file=tmp_path / "secret")
    assert named.patient_key_path == tmp_path / "secret"


def test_its_fingerprint_tells_keys_apart_and_is_not_the_key() -> None:
    one, other = bytes(32), bytes(31) + b"\1"
    assert (
        patient_hashing.key_fingerprint(one)
        == patient_hashing.key_fingerprint(one)
        != patient_hashing.key_fingerprint(other)
    )
    assert len(patient_hashing.key_fingerprint(one)) == 64
    assert patient_hashing.key_fingerprint(one) != one.hex()
