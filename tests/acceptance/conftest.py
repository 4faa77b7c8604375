"""Fixtures for acceptance tests: sample images, a way to drop them, and a browser."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from support.browser import BrowserMissing, chromium
from support.programs import Drop
from support.requirements import skip_or_fail

from pneumowatch.imaging.phantom import write_phantoms


@pytest.fixture(scope="session")
def sample(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Images of both classes in turn, all distinct files: 160 real ones where a folder is named, else 24 phantoms."""
    try:
        folder = request.getfixturevalue("images")
    except pytest.skip.Exception:
        drawn = tmp_path_factory.mktemp("sample")
        write_phantoms(drawn, 24)
        return sorted(drawn.iterdir())
    kinds = [sorted((folder / "kermany-224" / kind).iterdir())[-80:] for kind in ("NORMAL", "PNEUMONIA")]
    return [image for pair in zip(*kinds, strict=True) for image in pair]


@pytest.fixture(scope="session")
def drop(sample: list[Path]) -> Drop:
    """Copy `count` images into a folder and return their paths; repeats of the sample get distinct bytes."""

    def copy(folder: Path, count: int) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for number in range(count):
            image = sample[number % len(sample)]
            path = folder / f"{number:04}-{image.name}"
            shutil.copyfile(image, path)
            if number >= len(sample):
                with path.open("ab") as file:
                    file.write(number.to_bytes(4, "big"))  # appended after the pixels: another file with the same image
            paths.append(path)
        return paths

    return copy


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    try:
        with chromium() as browser:
            yield browser
    except BrowserMissing as missing:
        skip_or_fail(str(missing))
