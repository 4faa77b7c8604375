"""Each fault once, on a small flow and with a short lease; `make faults` has them at size.

`make test` has one of each kind, a component killed and a service lost, deployed and embedded; `make test-all` has
the rest.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from _pytest.mark import ParameterSet
from faults.faults import FAULTS, Fault, installation
from faults.rig import Rig
from faults.scenario import QUICK, Scenario
from support.services import ServiceMissing

ALWAYS = {"worker-killed", "redis-restarted", "postgres-restarted", "up-killed"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Rig]]:
    """The installation of a kind, shared by successive faults until one of another kind is asked for."""
    with ExitStack() as stack:
        standing: dict[str, Rig] = {}

        def give(home: str) -> Rig:
            if home not in standing:
                stack.close()
                standing.clear()
                standing[home] = stack.enter_context(installation(home, tmp_path_factory.mktemp(home), QUICK))
            return standing[home]

        yield give


def parameter(fault: Fault) -> ParameterSet:
    return pytest.param(fault, id=fault.name, marks=() if fault.name in ALWAYS else pytest.mark.slow)


@pytest.mark.parametrize("fault", [parameter(fault) for fault in FAULTS])
def test_nothing_is_lost_or_doubled(site: Callable[[str], Rig], fault: Fault, request: pytest.FixtureRequest) -> None:
    if reason := fault.missing():
        pytest.skip(reason)
    try:
        running = site(fault.home)
    except ServiceMissing:
        request.getfixturevalue("redis_url")  # skips, or fails where they must be there
        request.getfixturevalue("postgres_url")
        raise
    scenario = Scenario(running, QUICK, fault.name)
    fault.act(scenario)
    account = scenario.close()
    assert account.complaints == [], f"{account}\n{running.said()}"
