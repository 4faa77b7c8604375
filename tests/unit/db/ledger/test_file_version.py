"""File versions as the watcher sees them: every name that Linux allows has an identity and a readable text."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from db.ledger.file_version import FileVersion

paths = st.binary(min_size=1, max_size=300)


@given(paths)
def test_any_path_has_a_text_that_a_database_takes(path: bytes) -> None:
    text = FileVersion("inbox", path, 1, 2).text
    assert "\0" not in text
    text.encode("utf-8")  # no lone surrogates


@given(paths)
def test_the_identity_is_of_the_raw_bytes(path: bytes) -> None:
    assert FileVersion("inbox", path, 1, 2).path_sha256 == hashlib.sha256(path).digest()


def test_text_of_a_name_that_is_no_utf8() -> None:
    assert FileVersion("inbox", b"r\xf6ntgen.png", 1, 2).text == r"r\xf6ntgen.png"
    assert FileVersion("inbox", "röntgen.png".encode(), 1, 2).text == "röntgen.png"
