"""Each fault once, on a small flow and with a short lease; `make faults` has them at size."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from faults import company, rig
from faults.faults import FAULTS, Fault
from faults.stage import QUICK, Stage
from faults.storage import Cramped
from services import ServiceMissing


def of(home: str) -> list[object]:
    return [pytest.param(fault, id=fault.name) for fault in FAULTS if fault.home == home]


@pytest.fixture(scope="module")
def deployed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[rig.Deployed]:
    with ExitStack() as stack:
        try:
            yield stack.enter_context(rig.deployed(tmp_path_factory.mktemp("deployed"), QUICK.lease))
        except ServiceMissing:
            request.getfixturevalue("redis_url")  # skips, or fails where they must be there
            request.getfixturevalue("postgres_url")
            raise


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[rig.Embedded]:
    with rig.embedded(tmp_path_factory.mktemp("up"), QUICK.lease) as running:
        running.up(rig.SABOTAGED, {"SABOTAGE_BUSY_SECONDS": "1"})
        yield running


@pytest.fixture
def cramped(tmp_path: Path) -> Iterator[Cramped]:
    if not Cramped.permitted():
        pytest.skip("file systems cannot be mounted here")
    running = Cramped(tmp_path, QUICK.lease, keep_films="all")
    try:
        running.up()
        yield running
    finally:
        running.close()


def survive(fault: Fault, running: rig.Rig) -> None:
    stage = Stage(running, QUICK, fault.name)
    fault.act(stage)
    account = stage.close()
    assert account.complaints == [], f"{account}\n{running.said()}"


@pytest.mark.parametrize("fault", of("deployed"))
def test_a_department_survives(fault: Fault, deployed: rig.Deployed) -> None:
    if fault.act is company.clock_set and company.faketime() is None:
        pytest.skip("libfaketime is not installed")
    survive(fault, deployed)


@pytest.mark.parametrize("fault", of("up"))
def test_up_survives(fault: Fault, up: rig.Embedded) -> None:
    survive(fault, up)


@pytest.mark.parametrize("fault", of("cramped"))
def test_up_survives_with_little_room(fault: Fault, cramped: Cramped) -> None:
    survive(fault, cramped)
