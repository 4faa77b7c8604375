"""Each fault once, on a small flow and with a short lease; `make faults` has them at size."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from faults.faults import FAULTS, Fault, installation
from faults.rig import Rig
from faults.stage import QUICK, Stage
from services import ServiceMissing


@pytest.fixture(scope="module")
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One installation for all faults that come to it: each leaves it well, or the next says so."""
    with ExitStack() as stack:
        try:
            yield stack.enter_context(installation(request.param, tmp_path_factory.mktemp("faults"), QUICK))
        except ServiceMissing:
            request.getfixturevalue("redis_url")  # skips, or fails where they must be there
            request.getfixturevalue("postgres_url")
            raise


@pytest.mark.parametrize(
    ("running", "fault"),
    [pytest.param(fault.home, fault, id=fault.name) for fault in FAULTS],
    indirect=["running"],
)
def test_nothing_is_lost_or_doubled(running: Rig, fault: Fault) -> None:
    if reason := fault.missing():
        pytest.skip(reason)
    stage = Stage(running, QUICK, fault.name)
    fault.act(stage)
    account = stage.close()
    assert account.complaints == [], f"{account}\n{running.said()}"
