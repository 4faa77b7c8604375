"""`pneumowatch erase`, and ids that no database holds."""

from pathlib import Path

import pytest
from support.invoke import PATIENT, call
from support.ledger_driver import LedgerDriver

from pneumowatch.errors import ErasureRefused


@pytest.mark.parametrize(
    "words",
    [
        ("erase", 2**63, "--yes"),
        ("requeue", 2**63),
        ("verdict", 2**63, "unsure", "--reviewer", "ada"),
        ("flagged", "-n", 2**63),
    ],
)
def test_numbers_that_no_database_holds(ledger: LedgerDriver, data: Path, words: tuple[object, ...]) -> None:
    code, said = call(*words, "--data", data)
    assert code == 2, said
    assert str(2**63 - 1) in said
    assert set(ledger.states().values()) == {"classified"}


def test_a_patient_is_erased_by_an_id_that_is_asked_for(ledger: LedgerDriver, data: Path) -> None:
    code, said = call("erase", "--ask", "--data", data, answers=f"{PATIENT}\n\ny\n")
    assert code == 0, said
    assert "Erased scans: 1" in said
    assert PATIENT not in said
    assert ledger.row(1)["reason"] == "erased"
    assert ledger.row(2)["reason"] is None
    with pytest.raises(ErasureRefused):
        call("erase", "--ask", "--data", data, answers=f"{PATIENT}\n\ny\n")


def test_nothing_is_erased_by_a_dry_run_or_a_no(ledger: LedgerDriver, data: Path) -> None:
    code, said = call("erase", 1, 2, "--dry-run", "--data", data)
    assert code == 0
    assert "2 scans (2 classified): 1, 2" in said
    assert call("erase", 1, "--data", data, answers="n\n")[0] == 1
    assert ledger.states() == {1: "classified", 2: "classified"}
    assert call("erase", 1, "--json", "--data", data)[0] == 2  # nobody can be asked
    assert call("erase", "--data", data)[0] == 2
    assert call("erase", 1, "--yes", "--json", "--data", data)[0] == 0
    assert ledger.states() == {1: "rejected", 2: "classified"}
