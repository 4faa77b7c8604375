"""Films for whole runs, and a browser."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import BrowserMissing, chromium
from lacking import lacking
from playwright.sync_api import Browser
from programs import Drop

from pneumowatch.imaging.phantom import write_phantoms


@pytest.fixture(scope="session")
def sample(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Films of both kinds in turn, each with bytes of its own: 160 real ones where some are named, else 24 drawn."""
    try:
        folder = request.getfixturevalue("films")
    except pytest.skip.Exception:
        drawn = tmp_path_factory.mktemp("sample")
        write_phantoms(drawn, 24)
        return sorted(drawn.iterdir())
    kinds = [sorted((folder / "kermany-224" / kind).iterdir())[-80:] for kind in ("NORMAL", "PNEUMONIA")]
    return [film for pair in zip(*kinds, strict=True) for film in pair]


@pytest.fixture(scope="session")
def drop(sample: list[Path]) -> Drop:
    """Copies `count` films into a folder and returns their paths; beyond the sample's size, with bytes of their own."""

    def copy(folder: Path, count: int) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for number in range(count):
            film = sample[number % len(sample)]
            path = folder / f"{number:04}-{film.name}"
            shutil.copyfile(film, path)
            if number >= len(sample):
                with path.open("ab") as file:
                    file.write(number.to_bytes(4, "big"))  # behind the picture: another file, the same film
            paths.append(path)
        return paths

    return copy


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    try:
        with chromium() as browser:
            yield browser
    except BrowserMissing as missing:
        lacking(str(missing))
