"""Fixtures for all tests: real services and real images."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest
from support.requirements import skip_or_fail
from support.services import Server, ServiceMissing, fresh_database, postgres_server, redis_server
from support.tiny_models import gated_network, tiny_network, write_model

from pneumowatch.imaging.phantom import write_phantoms
from pneumowatch.model_folder import ModelFolder

IMAGES = "PNEUMOWATCH_TEST_IMAGES"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what can read real images, so that it can be run once more where there are some."""
    for item in items:
        if {"images", "sample"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.images)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Redis shared by all tests; one that empties or stops its broker takes `own_redis`."""
    if given := os.environ.get("PNEUMOWATCH_TEST_REDIS_URL"):
        yield given
        return
    with ExitStack() as stack:
        yield _start(stack, redis_server()).url


@pytest.fixture
def own_redis() -> Iterator[Server]:
    """A Redis for one test, which may `stop`, `kill` and `start` it; its URL stays."""
    with ExitStack() as stack:
        yield _start(stack, redis_server())


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL shared by all tests, as a SQLAlchemy URL with the right to create databases."""
    if given := os.environ.get("PNEUMOWATCH_TEST_POSTGRES_URL"):
        yield given
        return
    with ExitStack() as stack:
        yield _start(stack, postgres_server()).url


@pytest.fixture
def postgres_database(postgres_url: str) -> Iterator[str]:
    """SQLAlchemy URL of a fresh PostgreSQL database, gone after the test."""
    with fresh_database(postgres_url) as url:
        yield url


@pytest.fixture
def logged(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """Return what was logged since the last call, whether or not an earlier test of this process set up logging."""

    def read() -> str:
        text = capsys.readouterr().out + caplog.text
        caplog.clear()
        return text

    return read


@pytest.fixture(scope="session")
def images() -> Path:
    """Folder of real images: `originals/` as they came and `kermany-224/` reduced, each with NORMAL and PNEUMONIA."""
    named = os.environ.get(IMAGES)
    if not named:
        pytest.skip(f"needs real images; name their folder in {IMAGES}")
    folder = Path(named).absolute()
    if not folder.is_dir():
        pytest.fail(f"{IMAGES} names {folder}, which is no folder")
    return folder


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a dozen drawn images, which tests copy and leave as they are: drawing them takes a while."""
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms(folder, 12)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """A model folder with a small, untrained network of 64 x 64."""
    return write_model(tmp_path_factory.mktemp("models") / "champion", tiny_network())


@pytest.fixture(scope="session")
def gated_model(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """A model folder whose network also gives a map and a gate score."""
    return write_model(tmp_path_factory.mktemp("models") / "gated", gated_network(), version="gated-1")


def _start(stack: ExitStack, server: AbstractContextManager[Server]) -> Server:
    try:
        return stack.enter_context(server)
    except ServiceMissing as missing:
        skip_or_fail(str(missing))
