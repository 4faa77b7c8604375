"""The API conforms to its OpenAPI description: schemathesis sends valid requests, and many invalid ones."""

from collections.abc import Iterator
from contextlib import suppress

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from support.classified_scans import add_classified
from support.ledger_driver import LedgerDriver, file_version
from support.review_server import ReviewServer

from db.states import Reason, Verdict
from db.worklist import verdicts

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EXAMPLES = 12  # of each route, in its form and out of it
LEAST = 11  # routes


@pytest.fixture
def filled(review_server: ReviewServer) -> ReviewServer:
    """With a few scans of each kind, so that most answers have something in them."""
    ledger = LedgerDriver(review_server.database)
    ledger.register_model()
    for number in range(1, 6):
        add_classified(ledger, f"{number}.png", number / 6, study="1.2" if number > 3 else None, share=1.0)
    ledger.reject(file_version("6.png"), Reason.NOT_CHEST_XRAY)
    ledger.add(file_version("7.png"))
    review_server.database.write(lambda c: verdicts.record_verdict(c, 5, Verdict.PNEUMONIA, "ada", "left base"))
    return review_server


@pytest.fixture
def session(filled: ReviewServer) -> Iterator[requests.Session]:
    """A script with a reader's token."""
    with requests.Session() as session:
        session.trust_env = False
        session.headers["Authorization"] = filled.script().headers["Authorization"]
        yield session


@pytest.mark.slow
def test_no_answer_that_is_not_described(filled: ReviewServer, session: requests.Session) -> None:
    description = schemathesis.openapi.from_dict(filled.app.openapi())
    operations = [result.ok() for result in description.get_all_operations()]
    assert len(operations) >= LEAST
    asked = dict.fromkeys(GenerationMode, 0)
    for operation in operations:
        for mode in GenerationMode:
            with suppress(Unsatisfiable):  # a route that takes nothing cannot be asked wrongly
                _ask(operation, mode, filled.url, session)
                asked[mode] += 1
    assert asked[GenerationMode.POSITIVE] == len(operations)
    assert asked[GenerationMode.NEGATIVE] >= len(operations) - 3


def _ask(operation: schemathesis.APIOperation, mode: GenerationMode, url: str, session: requests.Session) -> None:
    @settings(
        max_examples=EXAMPLES,
        phases=[Phase.generate],  # the failing case as it was: each smaller one is a request, too
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case) -> None:
        if isinstance((case.query or {}).get("wait"), int | float):
            case.query["wait"] = 0  # no worker runs here: waiting for a result would only take long
        case.call_and_validate(base_url=url, session=session, checks=CHECKS, timeout=60)

    ask()
