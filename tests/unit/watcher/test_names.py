import pytest

from watcher.names import ignored


@pytest.mark.parametrize(
    "path",
    [
        b"film.jpeg",
        b"DOE_JOHN.dcm",
        b"1.2.840.113619",
        b"ward/a film",
        b"x.jpeg.1",
        b"tmp/film.jpeg",
        b"\xff\xfe.png",
        b"a\nb",
    ],
)
def test_a_film_may_bear_any_other_name(path: bytes) -> None:
    assert ignored(path) is None


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        (b"film.jpeg.part", "temporary"),
        (b"FILM.TMP", "temporary"),
        (b"film.crdownload", "temporary"),
        (b"film.jpeg~", "temporary"),
        (b"~$film.jpeg", "temporary"),
        (b"ward/film.filepart", "temporary"),
        (b".film.jpeg.Xa31Bc", "hidden"),
        (b".snapshot/film.jpeg", "hidden"),
        (b"ward/.DS_Store", "hidden"),
        (b"Thumbs.db", "system"),
        (b"ward/desktop.ini", "system"),
        (b"$RECYCLE.BIN/film.jpeg", "system"),
    ],
)
def test_what_is_left_beside_films_is_told_by_rule(path: bytes, rule: str) -> None:
    assert ignored(path) == rule
