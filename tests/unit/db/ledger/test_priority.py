"""Priority of images by the folders that they are in."""

import unicodedata

import pytest

from db.ledger.file_version import FileVersion
from db.ledger.priority import urgent_folder_names, with_priority
from db.models import ROUTINE, STAT


def priority(path: str | bytes, setting: str = "STAT", inbox: str = "ward") -> int:
    raw = path if isinstance(path, bytes) else path.encode()
    return with_priority(FileVersion(inbox, raw, 1, 1), urgent_folder_names(setting)).priority


@pytest.mark.parametrize("path", ["STAT/a.dcm", "stat/a.dcm", "2026/Stat/room 3/a.dcm", "a/b/STAT", "STAT"])
def test_any_component_counts_in_capitals_or_not(path: str) -> None:
    assert priority(path) == STAT


@pytest.mark.parametrize("path", ["a.dcm", "STAT.dcm", "STATION/a.dcm", "NOSTAT/a.dcm", "STAT 2/a.dcm", b"\xff/a.dcm"])
def test_whole_names_only(path: str | bytes) -> None:
    assert priority(path) == ROUTINE


def test_several_names_and_a_whole_inbox() -> None:
    assert priority("er/a.dcm", " STAT, ER ,") == STAT
    assert priority("a.dcm", "stat,er", inbox="er") == STAT
    assert priority("a.dcm", ",") == ROUTINE


def test_accents_as_either_machine_writes_them() -> None:
    name = "NOTF\u00c4LLE"
    for form in ("NFC", "NFD"):
        assert priority(f"{unicodedata.normalize(form, name.lower())}/a.dcm", name) == STAT


def test_names_that_are_no_utf8() -> None:
    assert priority(b"r\xf6/STAT/a.dcm") == STAT
    assert priority(b"ST\xffAT/a.dcm") == ROUTINE
