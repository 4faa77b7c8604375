"""The outbox: a row with each newly flagged scan, once, and what becomes of it whoever dies in between."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from books import MODEL, Book, at_once, classified, model_folder, rejected, seen
from sqlalchemy import select, update

from db import deployment
from db.ledger import outbox, transitions
from db.ledger.outbox import Delivery
from db.models import Outbox
from db.registry import model_registry, rescoring
from pneumowatch.header import Header

LEASE = timedelta(seconds=60)
HOUSE = UUID(int=7)
DAY = timedelta(days=1)
FURTHEST = timedelta(hours=1)


def finish(book: Book, *outcomes: Any, to: tuple[str, ...] = ("webhook",)) -> None:
    claim = book.claimed()
    book.database.write(lambda c: transitions.record_outcomes(c, claim.token, outcomes, "worker", to))


def flag(book: Book, *names: str, to: tuple[str, ...] = ("webhook",), **outcome: Any) -> list[int]:
    ids = book.add(*(seen(name) for name in names))
    finish(book, *(replace(classified(id_), **outcome) for id_ in ids), to=to)
    return ids


def rows(book: Book) -> list[dict[str, Any]]:
    listed = book.database.read(lambda c: c.execute(select(Outbox.__table__).order_by(Outbox.id)).mappings().all())
    return [dict(row) for row in listed]


def take(book: Book, kind: str = "webhook", count: int = 1, lease: timedelta = LEASE, **more: Any) -> Delivery | None:
    return book.database.write(lambda c: outbox.claim_delivery(c, kind, count, lease, HOUSE, FURTHEST, **more))


def taken(book: Book, kind: str = "webhook", count: int = 1, **more: Any) -> Delivery:
    delivery = take(book, kind, count, **more)
    assert delivery is not None
    return delivery


def delivered(book: Book, delivery: Delivery) -> int:
    return book.database.write(lambda c: outbox.mark_sent(c, delivery.token))


def put_off(book: Book, delivery: Delivery, seconds: float = 0, patience: timedelta = DAY) -> int:
    def delay(attempts: int) -> timedelta:
        return timedelta(seconds=seconds * attempts)

    return book.database.write(lambda c: outbox.retry_later(c, delivery.token, "http_500", delay, patience))


def refuse(book: Book, delivery: Delivery) -> int:
    return book.database.write(lambda c: outbox.give_up(c, delivery.token, "http_410"))


def state_of(book: Book) -> list[str]:
    return [row["state"] for row in rows(book)]


def later(book: Book, **values: Any) -> None:
    """As if time had passed."""
    book.database.write(lambda c: c.execute(update(Outbox).values(**values)))


def test_a_flagged_scan_has_a_row_for_each_way_out(book: Book) -> None:
    (flagged, healthy) = book.add(seen("a.png"), seen("b.png"))
    finish(book, classified(flagged), classified(healthy, probability=0.1, flagged=False), to=("webhook", "mail"))
    assert [(row["scan_id"], row["channel"], row["state"]) for row in rows(book)] == [
        (flagged, "webhook", "waiting"),
        (flagged, "mail", "waiting"),
    ]


def test_nobody_is_told_where_nothing_is_set(book: Book) -> None:
    book.classify(seen())
    assert rows(book) == []
    assert take(book) is None


def test_it_is_written_with_the_result_or_not_at_all(book: Book) -> None:
    (scan_id,) = book.add(seen())
    claim = book.claimed()

    def interrupted(connection: Any) -> None:
        transitions.record_outcomes(connection, claim.token, [classified(scan_id)], "worker", ("webhook",))
        raise RuntimeError("the process dies here")

    with pytest.raises(RuntimeError):
        book.database.write(interrupted)
    assert (rows(book), book.state(scan_id)) == ([], "running")
    book.database.write(
        lambda c: transitions.record_outcomes(c, claim.token, [classified(scan_id)], "worker", ("webhook",))
    )
    assert len(rows(book)) == 1
    book.database.write(
        lambda c: transitions.record_outcomes(c, claim.token, [classified(scan_id)], "late", ("webhook",))
    )
    assert len(rows(book)) == 1


def test_a_duplicate_is_no_news(book: Book) -> None:
    flag(book, "a.png", sha256="5" * 64)
    flag(book, "copy.png", sha256="5" * 64)
    assert len(rows(book)) == 1


def test_what_was_rejected_first_is_told_of_when_it_is_flagged(book: Book) -> None:
    (scan_id,) = book.add(seen())
    finish(book, rejected(scan_id))
    assert rows(book) == []
    book.requeue()
    finish(book, classified(scan_id))
    assert [row["scan_id"] for row in rows(book)] == [scan_id]


def test_a_pacs_is_told_of_films_that_came_from_one(book: Book) -> None:
    flag(book, "a.png", to=("pacs",))
    flag(book, "odd.dcm", to=("pacs",), header=Header(sop_uid="1.2.3"))
    (scan_id,) = flag(book, "b.dcm", to=("pacs",), header=Header(study_uid="1.2", sop_uid="1.2.3"))
    assert [row["scan_id"] for row in rows(book)] == [scan_id]
    (notification,) = taken(book, "pacs").notifications
    assert notification.copies == (("inbox", b"b.dcm"),)
    assert "b.dcm" not in repr(notification)


def test_rescoring_tells_nobody(book: Book) -> None:
    """Whoever rescores sees what it changed; a receiver is told of films as they come."""
    (scan_id,) = flag(book, "a.png", flagged=False, probability=0.1)
    book.database.write(lambda c: model_registry.register_model(c, model_folder("model-2", "2" * 64), b"other", "test"))
    newly = replace(classified(scan_id), model_version="model-2")
    book.database.write(lambda c: rescoring.add_predictions(c, [newly]))
    book.database.write(lambda c: rescoring.make_current(c, "model-2", 10, "ada", lambda _: None))
    assert book.row(scan_id)["flagged"]
    assert rows(book) == []


def test_a_notice_says_what_was_so_when_it_was_flagged(book: Book) -> None:
    (scan_id,) = flag(book, "a.png", probability=0.9)
    before = taken(book).notifications
    put_off(book, Delivery(rows(book)[0]["token"], before))
    book.database.write(lambda c: model_registry.register_model(c, model_folder("model-2", "2" * 64), b"other", "test"))
    other = replace(classified(scan_id), model_version="model-2", probability=0.2, flagged=False)
    book.database.write(lambda c: rescoring.add_predictions(c, [other]))
    book.database.write(lambda c: rescoring.make_current(c, "model-2", 10, "ada", lambda _: None))
    (notification,) = taken(book).notifications
    assert (notification,) == before
    assert (notification.scan_id, notification.probability, notification.threshold, notification.model_version) == (
        scan_id,
        0.9,
        0.5,
        MODEL,
    )
    assert (notification.source, notification.sha256, notification.deployment) == ("inbox", f"{scan_id:064x}", HOUSE)
    assert notification.finished_at.tzinfo is not None


def test_held_by_one_until_it_is_delivered(book: Book) -> None:
    flag(book, "a.png")
    delivery = taken(book)
    assert take(book) is None
    assert not book.database.read(lambda c: outbox.has_due(c, "webhook", FURTHEST))
    assert delivered(book, delivery) == 1
    assert delivered(book, delivery) == 0  # as after an outage, when it is not known whether it was written
    (row,) = rows(book)
    assert (row["state"], row["attempts"], row["token"]) == ("sent", 1, None)
    assert row["ended_at"] is not None


def test_a_clock_that_was_ahead_holds_nothing_up(book: Book) -> None:
    ahead = datetime.now(UTC) + timedelta(hours=2)
    flag(book, "a.png")
    later(book, not_before=ahead)
    assert book.database.read(lambda c: outbox.has_due(c, "webhook", FURTHEST))
    delivered(book, taken(book))
    later(book, ended_at=ahead)
    flag(book, "b.png")
    assert take(book, min_interval=timedelta(minutes=5)) is not None, (
        "what was sent in the future keeps nothing from going out"
    )


def test_a_sender_that_dies_leaves_it_to_the_next_under_the_same_name(book: Book) -> None:
    flag(book, "a.png")
    dead = taken(book, lease=timedelta(0))
    delivery = taken(book)
    assert [notification.uuid("webhook") for notification in delivery.notifications] == [
        n.uuid("webhook") for n in dead.notifications
    ]
    assert delivered(book, dead) == 0  # it comes back to life: the row is another's
    assert put_off(book, dead) == 0
    assert state_of(book) == ["waiting"]
    assert delivered(book, delivery) == 1


def test_what_fails_waits_longer_each_time_and_is_given_up_after_days(book: Book) -> None:
    flag(book, "a.png")
    for attempts in (1, 2):
        assert put_off(book, taken(book), seconds=100) == 0
        (row,) = rows(book)
        assert (row["state"], row["attempts"], row["last_error"]) == ("waiting", attempts, "http_500")
        wait = (row["not_before"] - datetime.now(UTC)).total_seconds()
        assert 100 * attempts - 30 < wait <= 100 * attempts
        assert take(book) is None
        later(book, not_before=datetime.now(UTC))
    later(book, since=datetime.now(UTC) - 2 * DAY)
    assert put_off(book, taken(book)) == 0  # too few attempts: nobody has sent anything in between
    later(book, attempts=outbox.MIN_ATTEMPTS, not_before=datetime.now(UTC))
    assert put_off(book, taken(book)) == 1
    assert state_of(book) == ["given_up"]
    assert take(book) is None


def test_nothing_grows_old_while_nobody_sends(book: Book) -> None:
    flag(book, "a.png")
    later(book, since=datetime.now(UTC) - 30 * DAY)
    taken(book)
    (row,) = rows(book)
    assert datetime.now(UTC) - row["since"] < DAY


def test_given_up_at_once_where_it_is_not_wanted_and_tried_again_when_asked(book: Book) -> None:
    (scan_id,) = flag(book, "a.png")
    refuse(book, taken(book))
    (listed,) = book.database.read(lambda c: outbox.undelivered(c, 10))
    assert (listed["scan_id"], listed["state"], listed["last_error"]) == (scan_id, "given_up", "http_410")
    assert book.database.write(outbox.requeue_given_up) == 1
    assert book.database.write(outbox.requeue_given_up) == 0
    assert [notification.scan_id for notification in taken(book).notifications] == [scan_id]


def test_again_hastens_what_waits_but_not_what_is_held(book: Book) -> None:
    flag(book, "a.png", "b.png")
    held, failed = taken(book), taken(book)
    put_off(book, failed, seconds=1000)
    assert book.database.write(outbox.requeue_given_up) == 0
    assert taken(book).notifications == failed.notifications
    assert take(book) is None
    assert delivered(book, held) == 1


def test_released_where_all_senders_are_surely_gone(book: Book) -> None:
    flag(book, "a.png")
    dead = taken(book)
    book.database.write(outbox.release_claims)
    assert delivered(book, dead) == 0
    assert taken(book).notifications == dead.notifications


def test_counts(book: Book) -> None:
    assert book.database.read(outbox.counts_by_channel) == {}
    flag(book, "a.png", "b.png", to=("webhook", "mail"))
    delivered(book, taken(book))
    refuse(book, taken(book))
    assert book.database.read(outbox.counts_by_channel) == {
        "mail": {"waiting": 2, "sent": 0, "given_up": 0},
        "webhook": {"waiting": 0, "sent": 1, "given_up": 1},
    }


def test_many_senders_each_take_others(book: Book) -> None:
    ids = flag(book, *(f"{number}.png" for number in range(12)))
    deliveries = at_once(*[lambda: taken(book, count=3)] * 4)
    assert sorted(notification.scan_id for delivery in deliveries for notification in delivery.notifications) == ids
    assert take(book) is None


@pytest.fixture
def mails(book: Book) -> Iterator[Book]:
    flag(book, "a.png", "b.png", to=("mail",))
    return book


def digest(book: Book, minutes: float = 15, **more: Any) -> Delivery | None:
    return take(book, "mail", 200, min_interval=timedelta(minutes=minutes), **more)


def test_one_digest_in_a_time(mails: Book) -> None:
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


def test_a_digest_whose_sender_died_goes_out_after_its_lease(mails: Book) -> None:
    assert digest(mails, lease=timedelta(0)) is not None
    again = digest(mails)
    assert again is not None
    assert len(again.notifications) == 2


def test_two_senders_make_one_digest(mails: Book) -> None:
    assert [delivery is None for delivery in at_once(*[lambda: digest(mails)] * 4)].count(False) == 1


def test_the_deployment_has_one_name(book: Book) -> None:
    names = at_once(*[lambda: deployment.deployment_id(book.database)] * 4)
    assert len(set(names)) == 1
    assert names[0].version == 4
