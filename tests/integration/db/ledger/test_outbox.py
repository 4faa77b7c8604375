"""The outbox: one row for each newly flagged scan, which survives the death of any process."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, update
from support.ledger_driver import (
    MODEL,
    LedgerDriver,
    classified,
    file_version,
    model_folder,
    rejected,
    run_concurrently,
)

from db import deployment
from db.ledger import outbox, transitions
from db.ledger.outbox import Delivery
from db.models import Outbox
from db.registry import model_registry, rescoring
from pneumowatch.header import Header

LEASE = timedelta(seconds=60)
DEPLOYMENT_ID = UUID(int=7)
DAY = timedelta(days=1)
FURTHEST = timedelta(hours=1)


def finish(ledger: LedgerDriver, *outcomes: Any, to: tuple[str, ...] = ("webhook",)) -> None:
    claim = ledger.claimed()
    ledger.database.write(lambda c: transitions.record_outcomes(c, claim.token, outcomes, "worker", to))


def flag(ledger: LedgerDriver, *names: str, to: tuple[str, ...] = ("webhook",), **outcome: Any) -> list[int]:
    ids = ledger.add(*(file_version(name) for name in names))
    finish(ledger, *(replace(classified(id_), **outcome) for id_ in ids), to=to)
    return ids


def rows(ledger: LedgerDriver) -> list[dict[str, Any]]:
    listed = ledger.database.read(lambda c: c.execute(select(Outbox.__table__).order_by(Outbox.id)).mappings().all())
    return [dict(row) for row in listed]


def take(
    ledger: LedgerDriver, kind: str = "webhook", count: int = 1, lease: timedelta = LEASE, **more: Any
) -> Delivery | None:
    return ledger.database.write(
        lambda c: outbox.claim_delivery(c, kind, count, lease, DEPLOYMENT_ID, FURTHEST, **more)
    )


def taken(ledger: LedgerDriver, kind: str = "webhook", count: int = 1, **more: Any) -> Delivery:
    delivery = take(ledger, kind, count, **more)
    assert delivery is not None
    return delivery


def delivered(ledger: LedgerDriver, delivery: Delivery) -> int:
    return ledger.database.write(lambda c: outbox.mark_sent(c, delivery.token))


def put_off(ledger: LedgerDriver, delivery: Delivery, seconds: float = 0, patience: timedelta = DAY) -> int:
    def delay(attempts: int) -> timedelta:
        return timedelta(seconds=seconds * attempts)

    return ledger.database.write(lambda c: outbox.retry_later(c, delivery.token, "http_500", delay, patience))


def refuse(ledger: LedgerDriver, delivery: Delivery) -> int:
    return ledger.database.write(lambda c: outbox.give_up(c, delivery.token, "http_410"))


def state_of(ledger: LedgerDriver) -> list[str]:
    return [row["state"] for row in rows(ledger)]


def later(ledger: LedgerDriver, **values: Any) -> None:
    """Date rows back as if time had passed."""
    ledger.database.write(lambda c: c.execute(update(Outbox).values(**values)))


def test_a_flagged_scan_has_a_row_for_each_way_out(ledger: LedgerDriver) -> None:
    (flagged, healthy) = ledger.add(file_version("a.png"), file_version("b.png"))
    finish(ledger, classified(flagged), classified(healthy, probability=0.1, flagged=False), to=("webhook", "mail"))
    assert [(row["scan_id"], row["channel"], row["state"]) for row in rows(ledger)] == [
        (flagged, "webhook", "waiting"),
        (flagged, "mail", "waiting"),
    ]


def test_nobody_is_told_where_nothing_is_set(ledger: LedgerDriver) -> None:
    ledger.classify(file_version())
    assert rows(ledger) == []
    assert take(ledger) is None


def test_it_is_written_with_the_result_or_not_at_all(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.add(file_version())
    claim = ledger.claimed()

    def interrupted(connection: Any) -> None:
        transitions.record_outcomes(connection, claim.token, [classified(scan_id)], "worker", ("webhook",))
        raise RuntimeError("the process dies here")

    with pytest.raises(RuntimeError):
        ledger.database.write(interrupted)
    assert (rows(ledger), ledger.state(scan_id)) == ([], "running")
    ledger.database.write(
        lambda c: transitions.record_outcomes(c, claim.token, [classified(scan_id)], "worker", ("webhook",))
    )
    assert len(rows(ledger)) == 1
    ledger.database.write(
        lambda c: transitions.record_outcomes(c, claim.token, [classified(scan_id)], "late", ("webhook",))
    )
    assert len(rows(ledger)) == 1


def test_a_duplicate_is_no_news(ledger: LedgerDriver) -> None:
    flag(ledger, "a.png", sha256="5" * 64)
    flag(ledger, "copy.png", sha256="5" * 64)
    assert len(rows(ledger)) == 1


def test_what_was_rejected_first_is_told_of_when_it_is_flagged(ledger: LedgerDriver) -> None:
    (scan_id,) = ledger.add(file_version())
    finish(ledger, rejected(scan_id))
    assert rows(ledger) == []
    ledger.requeue()
    finish(ledger, classified(scan_id))
    assert [row["scan_id"] for row in rows(ledger)] == [scan_id]


def test_a_pacs_is_told_of_images_that_came_from_one(ledger: LedgerDriver) -> None:
    flag(ledger, "a.png", to=("pacs",))
    flag(ledger, "odd.dcm", to=("pacs",), header=Header(sop_uid="1.2.3"))
    (scan_id,) = flag(ledger, "b.dcm", to=("pacs",), header=Header(study_uid="1.2", sop_uid="1.2.3"))
    assert [row["scan_id"] for row in rows(ledger)] == [scan_id]
    (notification,) = taken(ledger, "pacs").notifications
    assert notification.copies == (("inbox", b"b.dcm"),)
    assert "b.dcm" not in repr(notification)


def test_rescoring_tells_nobody(ledger: LedgerDriver) -> None:
    """Whoever rescores sees what it changed; receivers are notified of new images only."""
    (scan_id,) = flag(ledger, "a.png", flagged=False, probability=0.1)
    ledger.database.write(
        lambda c: model_registry.register_model(c, model_folder("model-2", "2" * 64), b"other", "test")
    )
    newly = replace(classified(scan_id), model_version="model-2")
    ledger.database.write(lambda c: rescoring.add_predictions(c, [newly]))
    ledger.database.write(lambda c: rescoring.make_current(c, "model-2", 10, "ada", lambda _: None))
    assert ledger.row(scan_id)["flagged"]
    assert rows(ledger) == []


def test_a_notice_says_what_was_so_when_it_was_flagged(ledger: LedgerDriver) -> None:
    (scan_id,) = flag(ledger, "a.png", probability=0.9)
    before = taken(ledger).notifications
    put_off(ledger, Delivery(rows(ledger)[0]["token"], before))
    ledger.database.write(
        lambda c: model_registry.register_model(c, model_folder("model-2", "2" * 64), b"other", "test")
    )
    other = replace(classified(scan_id), model_version="model-2", probability=0.2, flagged=False)
    ledger.database.write(lambda c: rescoring.add_predictions(c, [other]))
    ledger.database.write(lambda c: rescoring.make_current(c, "model-2", 10, "ada", lambda _: None))
    (notification,) = taken(ledger).notifications
    assert (notification,) == before
    assert (notification.scan_id, notification.probability, notification.threshold, notification.model_version) == (
        scan_id,
        0.9,
        0.5,
        MODEL,
    )
    assert (notification.source, notification.sha256, notification.deployment) == (
        "inbox",
        f"{scan_id:064x}",
        DEPLOYMENT_ID,
    )
    assert notification.finished_at.tzinfo is not None


def test_held_by_one_until_it_is_delivered(ledger: LedgerDriver) -> None:
    flag(ledger, "a.png")
    delivery = taken(ledger)
    assert take(ledger) is None
    assert not ledger.database.read(lambda c: outbox.has_due(c, "webhook", FURTHEST))
    assert delivered(ledger, delivery) == 1
    assert delivered(ledger, delivery) == 0  # as after an outage, when it is not known whether it was written
    (row,) = rows(ledger)
    assert (row["state"], row["attempts"], row["token"]) == ("sent", 1, None)
    assert row["ended_at"] is not None


def test_a_clock_that_was_ahead_holds_nothing_up(ledger: LedgerDriver) -> None:
    ahead = datetime.now(UTC) + timedelta(hours=2)
    flag(ledger, "a.png")
    later(ledger, not_before=ahead)
    assert ledger.database.read(lambda c: outbox.has_due(c, "webhook", FURTHEST))
    delivered(ledger, taken(ledger))
    later(ledger, ended_at=ahead)
    flag(ledger, "b.png")
    assert take(ledger, min_interval=timedelta(minutes=5)) is not None, (
        "what was sent in the future keeps nothing from going out"
    )


def test_a_sender_that_dies_leaves_it_to_the_next_under_the_same_name(ledger: LedgerDriver) -> None:
    flag(ledger, "a.png")
    dead = taken(ledger, lease=timedelta(0))
    delivery = taken(ledger)
    assert [notification.uuid("webhook") for notification in delivery.notifications] == [
        n.uuid("webhook") for n in dead.notifications
    ]
    assert delivered(ledger, dead) == 0  # it comes back to life: the row is another's
    assert put_off(ledger, dead) == 0
    assert state_of(ledger) == ["waiting"]
    assert delivered(ledger, delivery) == 1


def test_what_fails_waits_longer_each_time_and_is_given_up_after_days(ledger: LedgerDriver) -> None:
    flag(ledger, "a.png")
    for attempts in (1, 2):
        assert put_off(ledger, taken(ledger), seconds=100) == 0
        (row,) = rows(ledger)
        assert (row["state"], row["attempts"], row["last_error"]) == ("waiting", attempts, "http_500")
        wait = (row["not_before"] - datetime.now(UTC)).total_seconds()
        assert 100 * attempts - 30 < wait <= 100 * attempts
        assert take(ledger) is None
        later(ledger, not_before=datetime.now(UTC))
    later(ledger, since=datetime.now(UTC) - 2 * DAY)
    assert put_off(ledger, taken(ledger)) == 0  # too few attempts: nobody has sent anything in between
    later(ledger, attempts=outbox.MIN_ATTEMPTS, not_before=datetime.now(UTC))
    assert put_off(ledger, taken(ledger)) == 1
    assert state_of(ledger) == ["given_up"]
    assert take(ledger) is None


def test_nothing_grows_old_while_nobody_sends(ledger: LedgerDriver) -> None:
    flag(ledger, "a.png")
    later(ledger, since=datetime.now(UTC) - 30 * DAY)
    taken(ledger)
    (row,) = rows(ledger)
    assert datetime.now(UTC) - row["since"] < DAY


def test_given_up_at_once_where_it_is_not_wanted_and_tried_again_when_asked(ledger: LedgerDriver) -> None:
    (scan_id,) = flag(ledger, "a.png")
    refuse(ledger, taken(ledger))
    (listed,) = ledger.database.read(lambda c: outbox.undelivered(c, 10))
    assert (listed["scan_id"], listed["state"], listed["last_error"]) == (scan_id, "given_up", "http_410")
    assert ledger.database.write(outbox.requeue_given_up) == 1
    assert ledger.database.write(outbox.requeue_given_up) == 0
    assert [notification.scan_id for notification in taken(ledger).notifications] == [scan_id]


def test_again_hastens_what_waits_but_not_what_is_held(ledger: LedgerDriver) -> None:
    flag(ledger, "a.png", "b.png")
    held, failed = taken(ledger), taken(ledger)
    put_off(ledger, failed, seconds=1000)
    assert ledger.database.write(outbox.requeue_given_up) == 0
    assert taken(ledger).notifications == failed.notifications
    assert take(ledger) is None
    assert delivered(ledger, held) == 1


def test_released_where_all_senders_are_surely_gone(ledger: LedgerDriver) -> None:
    flag(ledger, "a.png")
    dead = taken(ledger)
    ledger.database.write(outbox.release_claims)
    assert delivered(ledger, dead) == 0
    assert taken(ledger).notifications == dead.notifications


def test_counts(ledger: LedgerDriver) -> None:
    assert ledger.database.read(outbox.counts_by_channel) == {}
    flag(ledger, "a.png", "b.png", to=("webhook", "mail"))
    delivered(ledger, taken(ledger))
    refuse(ledger, taken(ledger))
    assert ledger.database.read(outbox.counts_by_channel) == {
        "mail": {"waiting": 2, "sent": 0, "given_up": 0},
        "webhook": {"waiting": 0, "sent": 1, "given_up": 1},
    }


def test_many_senders_each_take_others(ledger: LedgerDriver) -> None:
    ids = flag(ledger, *(f"{number}.png" for number in range(12)))
    deliveries = run_concurrently(*[lambda: taken(ledger, count=3)] * 4)
    assert sorted(notification.scan_id for delivery in deliveries for notification in delivery.notifications) == ids
    assert take(ledger) is None


@pytest.fixture
def mails(ledger: LedgerDriver) -> Iterator[LedgerDriver]:
    flag(ledger, "a.png", "b.png", to=("mail",))
    return ledger


def digest(ledger: LedgerDriver, minutes: float = 15, **more: Any) -> Delivery | None:
    return take(ledger, "mail", 200, min_interval=timedelta(minutes=minutes), **more)


def test_one_digest_in_a_time(mails: LedgerDriver) -> None:
    first = digest(mails)
    assert first is not None
    assert len(first.notifications) == 2
    flag(mails, "c.png", to=("mail",))
    assert digest(mails) is None  # one is on its way
    delivered(mails, first)
    assert digest(mails) is None
    later(mails, ended_at=datetime.now(UTC) - timedelta(minutes=16))
    second = digest(mails)
    assert second is not None
    assert len(second.notifications) == 1


def test_a_digest_whose_sender_died_goes_out_after_its_lease(mails: LedgerDriver) -> None:
    assert digest(mails, lease=timedelta(0)) is not None
    again = digest(mails)
    assert again is not None
    assert len(again.notifications) == 2


def test_two_senders_make_one_digest(mails: LedgerDriver) -> None:
    assert [delivery is None for delivery in run_concurrently(*[lambda: digest(mails)] * 4)].count(False) == 1


def test_the_deployment_has_one_name(ledger: LedgerDriver) -> None:
    names = run_concurrently(*[lambda: deployment.deployment_id(ledger.database)] * 4)
    assert len(set(names)) == 1
    assert names[0].version == 4
