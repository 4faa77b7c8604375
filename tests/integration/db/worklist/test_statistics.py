"""The overview's figures, on verdicts whose sums can be worked out by hand."""

from datetime import UTC, datetime, timedelta

import pytest
from support.classified_scans import add_classified
from support.ledger_driver import LedgerDriver, file_version

from db.states import State, Verdict
from db.worklist import statistics, verdicts
from db.worklist.statistics import Stratum


def judge(ledger: LedgerDriver, scan_id: int, verdict: Verdict, reader: str = "ada") -> int:
    return ledger.database.write(lambda c: verdicts.record_verdict(c, scan_id, verdict, reader))


def test_images_by_day(ledger: LedgerDriver) -> None:
    add_classified(ledger, "1", 0.9)
    add_classified(ledger, "2", 0.1)
    add_classified(ledger, "3", 0.9, hours_ago=48)
    add_classified(ledger, "4", 0.9, hours_ago=24 * 9)
    ledger.reject(file_version("5"))
    days = ledger.database.read(lambda c: statistics.counts_by_day(c, 7))
    today = datetime.now(UTC).date()
    assert [one.day for one in days] == [today - timedelta(days=back) for back in range(6, -1, -1)]
    assert [(one.classified, one.flagged) for one in days] == [(0, 0)] * 4 + [(1, 1), (0, 0), (2, 1)]


def test_images_by_hour(ledger: LedgerDriver) -> None:
    now = datetime.now(UTC)
    for minutes, images in ((5, 2), (61, 1), (119, 1), (60 * 23 + 30, 1), (60 * 25, 1)):
        for number in range(images):
            scan_id = add_classified(ledger, f"{minutes} {number}", 0.1, hours_ago=26)
            ledger.set(scan_id, finished_at=now - timedelta(minutes=minutes))
    ledger.add(file_version("waits"))
    hours = ledger.database.read(lambda c: statistics.finished_by_hour(c, 24))
    assert [images for _, images in hours] == [1] + [0] * 21 + [2, 2]
    begin, _ = hours[-1]
    assert timedelta(minutes=59) < datetime.now(UTC) - begin < timedelta(minutes=62)


def test_images_by_source(ledger: LedgerDriver) -> None:
    add_classified(ledger, "1", 0.9, inbox="ward")
    add_classified(ledger, "2", 0.9, inbox="ward")
    ledger.reject(file_version("3", inbox="clinic"))
    add_classified(ledger, "4", 0.9, inbox="old", hours_ago=24 * 40)
    found = ledger.database.read(lambda c: statistics.recent_counts_by_source(c, 30))
    assert list(found) == ["clinic", "ward"]
    assert found["ward"] == dict.fromkeys(State, 0) | {State.CLASSIFIED: 2}
    assert found["clinic"][State.REJECTED] == 1


def test_without_the_hidden_sample_nothing_but_precision_is_measurable(ledger: LedgerDriver) -> None:
    for number, verdict in enumerate([Verdict.PNEUMONIA] * 3 + [Verdict.NO_PNEUMONIA, Verdict.UNSURE]):
        judge(ledger, add_classified(ledger, str(number), 0.9), verdict)
    judge(ledger, add_classified(ledger, "not flagged, judged all the same", 0.1), Verdict.PNEUMONIA)
    found = ledger.database.read(lambda c: statistics.agreement(c, 30))
    assert (found.sensitivity, found.specificity, found.sampled) == (None, None, 0)
    assert found.precision is not None
    assert found.precision.value == pytest.approx(3 / 4)
    assert found.precision.low < 3 / 4 < found.precision.high
    assert (found.flagged.images, found.flagged.reviewed, found.unflagged.images) == (5, 4, 1)


def test_sensitivity_and_specificity_by_the_hidden_sample(ledger: LedgerDriver) -> None:
    """Ten flagged, eight of them ill; forty not flagged, of which ten were drawn, one of them ill: as forty stand for
    what the ten say, 8 of 12 ill children are flagged, and 36 of 38 healthy ones are not."""
    for number in range(10):
        judge(
            ledger, add_classified(ledger, f"f{number}", 0.9), Verdict.PNEUMONIA if number < 8 else Verdict.NO_PNEUMONIA
        )
    for number in range(40):
        scan_id = add_classified(ledger, f"u{number}", 0.1)
        if number < 10:
            ledger.set(scan_id, sampled_share=0.25, worklist_rank=0.7, hidden_until_verdict=True)
            judge(ledger, scan_id, Verdict.PNEUMONIA if number == 0 else Verdict.NO_PNEUMONIA)
    found = ledger.database.read(lambda c: statistics.agreement(c, 30))
    assert found.sampled == 10
    assert found.sensitivity is not None
    assert found.specificity is not None
    assert found.sensitivity.value == pytest.approx(8 / 12)
    assert found.specificity.value == pytest.approx(36 / 38)
    assert 0.3 < found.sensitivity.low < 0.5 < 0.8 < found.sensitivity.high < 0.95
    assert found == ledger.database.read(lambda c: statistics.agreement(c, 30))  # the same verdicts, the same intervals


def test_images_that_were_drawn_by_another_share_stand_for_others(ledger: LedgerDriver) -> None:
    for share, verdict in ((0.5, Verdict.NO_PNEUMONIA), (0.1, Verdict.PNEUMONIA)):
        scan_id = add_classified(ledger, str(share), 0.1)
        ledger.set(scan_id, sampled_share=share)
        judge(ledger, scan_id, verdict)
    found = ledger.database.read(lambda c: statistics.agreement(c, 30))
    assert found.unflagged.share_with_pneumonia == pytest.approx(10 / 12)


def test_an_interval_holds_where_nothing_was_missed() -> None:
    """None of 20 was ill: the rule of three says that up to 3 / 20 of all might be."""
    found = statistics.agreement_between(Stratum(100, 50, 50, 0), Stratum(100, 20, 0, 400))
    assert found.sensitivity is not None
    assert found.sensitivity.value == found.sensitivity.high == 1.0
    assert 1 / (1 + 3 / 20) - 0.05 < found.sensitivity.low < 0.95


def test_disagreement_of_readers(ledger: LedgerDriver) -> None:
    alike, distinct, taken_back, settled, single = (add_classified(ledger, str(number), 0.9) for number in range(5))
    for scan_id in (alike, distinct, taken_back, settled, single):
        judge(ledger, scan_id, Verdict.PNEUMONIA, "ada")
    judge(ledger, alike, Verdict.PNEUMONIA, "bert")
    judge(ledger, distinct, Verdict.UNSURE, "bert")
    review = judge(ledger, taken_back, Verdict.UNSURE, "bert")
    ledger.database.write(lambda c: verdicts.retract_verdict(c, review, "bert"))
    judge(ledger, settled, Verdict.UNSURE, "bert")
    judge(ledger, settled, Verdict.PNEUMONIA, "bert")
    found = ledger.database.read(lambda c: statistics.disagreement(c, 30))
    assert (found.several, found.differ, found.scan_ids) == (3, 1, [distinct])


def test_an_empty_ledger(ledger: LedgerDriver) -> None:
    found = ledger.database.read(lambda c: statistics.agreement(c, 30))
    assert (found.sensitivity, found.specificity, found.precision) == (None, None, None)
    assert ledger.database.read(lambda c: statistics.disagreement(c, 30)) == (0, 0, [])
    assert sum(images for _, images in ledger.database.read(statistics.finished_by_hour)) == 0
