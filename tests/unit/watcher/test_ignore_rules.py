"""Which file names are ignored: those that copying programs and desktops leave, and no others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watcher.ignore_rules import ignore_rule


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        (b".DS_Store", "hidden"),
        (b".a.png.Xy12ab", "hidden"),  # rsync
        (b"ward/.hidden/a.png", "hidden"),
        (b"ward/._a.png", "hidden"),  # macOS
        (b".", "hidden"),
        (b"Thumbs.db", "system"),
        (b"ward/THUMBS.DB", "system"),
        (b"desktop.ini", "system"),
        (b"System Volume Information/a.png", "system"),
        (b"$RECYCLE.BIN/a.png", "system"),
        (b"a.png.part", "temporary"),
        (b"a.png.PART", "temporary"),
        (b"a.png.filepart", "temporary"),  # WinSCP
        (b"a.png.tmp", "temporary"),
        (b"a.png.crdownload", "temporary"),
        (b"a.png~", "temporary"),
        (b"~$a.docx", "temporary"),
        (b"study.tmp/a.png", "temporary"),
    ],
)
def test_ignored(path: bytes, rule: str) -> None:
    assert ignore_rule(path) == rule


@pytest.mark.parametrize(
    "path",
    [
        b"a.png", b"IM-0001", b"DICOMDIR", b"a.part.png", b"a.tmp.dcm", b"r\xf6ntgen.png", b"part", b"tmp", b"a b.png",
        b"thumbs.db.png", b"ward 3/1.2.840.113619.2/1", b"a..png", b"$a.png", b"\n", b"lock.dcm", b"a.temperature",
        "röntgen~1/a.png".encode(),
    ],
)  # fmt: skip
def test_may_be_an_image(path: bytes) -> None:
    assert ignore_rule(path) is None


@given(
    st.lists(st.binary(min_size=1, max_size=20).filter(lambda part: b"/" not in part and b"\0" not in part), max_size=4)
)
def test_what_lies_in_an_ignored_folder_is_ignored(parts: list[bytes]) -> None:
    assert ignore_rule(b"/".join([*parts, b".hidden", b"a.png"])) is not None
    assert (ignore_rule(b"/".join([*parts, b"a.png"])) is None) == all(ignore_rule(part) is None for part in parts)
