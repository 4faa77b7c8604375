"""The states of a scan, as the contract names them."""

from db.states import FINAL, REQUEUEABLE, WAITING, Reason, State, Verdict


def test_the_states_of_the_contract() -> None:
    assert {str(state) for state in State} == {"queued", "running", "classified", "rejected", "duplicate", "failed"}


def test_each_state_waits_or_is_final() -> None:
    assert {*WAITING, *FINAL} == set(State)
    assert not {*WAITING} & {*FINAL}


def test_only_what_has_no_result_can_be_requeued() -> None:
    assert set(REQUEUEABLE) == {State.REJECTED, State.FAILED}


def test_the_reasons_of_the_contract() -> None:
    named = {"empty", "unsupported", "unreadable", "too_large", "no_pixels", "vanished", "superseded", "no_permission"}
    assert named <= {str(reason) for reason in Reason}


def test_the_verdicts_of_the_contract() -> None:
    assert [str(verdict) for verdict in Verdict] == ["pneumonia", "no_pneumonia", "unsure", "unusable"]


def test_codes_fit_their_columns() -> None:
    assert max(len(state) for state in State) <= 16
    assert max(len(reason) for reason in Reason) <= 32
    assert max(len(verdict) for verdict in Verdict) <= 16
