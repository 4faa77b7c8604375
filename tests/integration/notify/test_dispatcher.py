"""The dispatcher on a real outbox, with channels that do as the test says."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import update
from support.ledger_driver import LedgerDriver, classified, file_version
from support.waiting import eventually

from cli.run import dispatchers
from db.ledger import outbox, transitions
from db.ledger.outbox import OutboxState
from db.models import Outbox
from notify.dispatcher import Dispatcher, RetryPolicy
from pneumowatch.component import Component
from pneumowatch.errors import DeliveryFailed
from pneumowatch.notification import Notification
from pneumowatch.settings import Settings

SETTINGS = Settings(resend_seconds=5, resend_cap_seconds=60, give_up_days=1, data_dir=Path("nowhere"))
INTERVAL = 1.0  # seconds between two looks; no test waits for it


class Told:
    """A channel that raises what the test says, and remembers what it was given."""

    def __init__(self, kind: str = "webhook") -> None:
        self.kind = kind
        self.given: list[int] = []
        self.answers: list[Exception | None] = []

    def deliver(self, notifications: Sequence[Notification]) -> None:
        self.given += [notification.scan_id for notification in notifications]
        answer = self.answers.pop(0) if self.answers else None
        if answer is not None:
            raise answer


@pytest.fixture
def channel() -> Told:
    return Told()


@pytest.fixture
def dispatcher(ledger: LedgerDriver, channel: Told) -> Dispatcher:
    return Dispatcher(ledger.database, channel, UUID(int=7), SETTINGS)


def flag(ledger: LedgerDriver, count: int, kind: str = "webhook") -> list[int]:
    ids = ledger.add(*(file_version(f"{number}.png") for number in range(count)))
    claim = ledger.claimed()
    outcomes = [replace(classified(id_), sha256=f"{id_:064x}") for id_ in ids]
    ledger.database.write(lambda c: transitions.record_outcomes(c, claim.token, outcomes, "worker", (kind,)))
    return ids


def counts(ledger: LedgerDriver, kind: str = "webhook") -> dict[str, int]:
    return ledger.database.read(outbox.counts_by_channel)[kind]


def test_one_after_the_other_until_nothing_is_left(ledger: LedgerDriver, dispatcher: Dispatcher, channel: Told) -> None:
    ids = flag(ledger, 3)
    assert [dispatcher.deliver(INTERVAL) for _ in range(4)] == [0, 0, 0, INTERVAL]
    assert sorted(channel.given) == ids
    assert counts(ledger) == {"waiting": 0, "sent": 3, "given_up": 0}


def test_a_destination_that_is_away_is_asked_ever_more_seldom(
    ledger: LedgerDriver, dispatcher: Dispatcher, channel: Told
) -> None:
    flag(ledger, 8)
    channel.answers = [DeliveryFailed("no_connection")] * 6 + [None, DeliveryFailed("timeout")]
    pauses = [dispatcher.deliver(INTERVAL) for _ in range(6)]
    for pause, full in zip(pauses, (5, 10, 20, 40, 60, 60), strict=True):
        assert full / 2 <= pause <= full
    assert dispatcher.deliver(INTERVAL) == 0
    assert 2.5 <= dispatcher.deliver(INTERVAL) <= 5  # it has answered in between
    assert len(set(channel.given)) == 8  # what failed waits behind what has not been tried
    assert counts(ledger) == {"waiting": 7, "sent": 1, "given_up": 0}


def test_when_it_comes_back_all_that_failed_goes_out_at_once(
    ledger: LedgerDriver, dispatcher: Dispatcher, channel: Told
) -> None:
    ids = flag(ledger, 5)
    channel.answers = [DeliveryFailed("http_500", retry_after=1000)] * 4
    assert [dispatcher.deliver(INTERVAL) for _ in range(4)] == [60] * 4
    assert [dispatcher.deliver(INTERVAL) for _ in range(6)] == [0] * 5 + [INTERVAL]
    assert sorted(channel.given[4:]) == ids


def test_as_long_as_the_destination_asks_for(ledger: LedgerDriver, dispatcher: Dispatcher, channel: Told) -> None:
    flag(ledger, 2)
    channel.answers = [DeliveryFailed("http_429", retry_after=33), DeliveryFailed("http_503", retry_after=100_000)]
    assert dispatcher.deliver(INTERVAL) == 33
    assert dispatcher.deliver(INTERVAL) == 60  # but no longer than the cap


@pytest.mark.parametrize("fault", [DeliveryFailed("image_gone", unavailable=False), ValueError("DOE^JANE")])
def test_one_odd_image_holds_up_no_other(
    ledger: LedgerDriver, dispatcher: Dispatcher, channel: Told, fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    flag(ledger, 2)
    channel.answers = [fault]
    assert [dispatcher.deliver(INTERVAL) for _ in range(3)] == [0, 0, INTERVAL]
    assert counts(ledger) == {"waiting": 1, "sent": 1, "given_up": 0}
    (row,) = ledger.database.read(lambda c: outbox.undelivered(c, 10))
    assert row["last_error"] == ("image_gone" if isinstance(fault, DeliveryFailed) else "ValueError")
    assert "DOE" not in caplog.text


def test_what_is_not_wanted_is_given_up_and_the_next_goes_out(
    ledger: LedgerDriver, dispatcher: Dispatcher, channel: Told
) -> None:
    flag(ledger, 2)
    channel.answers = [DeliveryFailed("http_410", unavailable=False, permanent=True)]
    assert [dispatcher.deliver(INTERVAL) for _ in range(3)] == [0, 0, INTERVAL]
    assert counts(ledger) == {"waiting": 0, "sent": 1, "given_up": 1}


def test_mail_goes_out_as_one(ledger: LedgerDriver) -> None:
    ids = flag(ledger, 3, "mail")
    channel = Told("mail")
    dispatcher = Dispatcher(ledger.database, channel, UUID(int=7), SETTINGS)
    assert [dispatcher.deliver(INTERVAL) for _ in range(2)] == [0, INTERVAL]
    assert channel.given == ids


def test_it_stops_when_asked_to(ledger: LedgerDriver, dispatcher: Dispatcher, channel: Told) -> None:
    flag(ledger, 2)
    stop = threading.Event()
    thread = threading.Thread(target=dispatcher.run, args=(stop, 0.01, Component("schedule")))
    thread.start()
    try:
        eventually(lambda: counts(ledger)["sent"] == 2)
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()
    assert len(channel.given) == 2


def test_a_receiver_that_hangs_holds_up_no_shutdown(
    ledger: LedgerDriver, dispatcher: Dispatcher, channel: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag(ledger, 1)
    asked, release = threading.Event(), threading.Event()

    def hang(_: Sequence[Notification]) -> None:
        asked.set()
        release.wait(60)

    monkeypatch.setattr(channel, "deliver", hang)
    monkeypatch.setattr(dispatchers, "DELIVERY_GRACE_SECONDS", 0.1)
    with dispatchers.running_dispatchers(SETTINGS, [dispatcher], threading.Event(), Component("schedule")):
        assert asked.wait(60)
    assert counts(ledger) == {"waiting": 1, "sent": 0, "given_up": 0}
    release.set()
    for thread in threading.enumerate():
        if thread.name == "dispatcher":
            thread.join(60)


def test_a_delivery_that_hangs_is_told_in_the_heartbeat(
    ledger: LedgerDriver, channel: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag(ledger, 1)
    asked, release, stop = threading.Event(), threading.Event(), threading.Event()

    def hang(_: Sequence[Notification]) -> None:
        asked.set()
        release.wait(60)

    monkeypatch.setattr(channel, "deliver", hang)
    given = SETTINGS.model_copy(update={"lease_seconds": 0.5, "send_seconds": 0.05})
    hanging = Dispatcher(ledger.database, channel, UUID(int=7), given)
    component = Component("schedule")
    thread = threading.Thread(target=hanging.run, args=(stop, 0.01, component))
    thread.start()
    try:
        assert asked.wait(60)

        def expectations() -> dict[str, float]:
            return component.row(datetime.now(UTC))["expectations"]["delivery by webhook"]

        eventually(lambda: expectations()["idle_seconds"] > expectations()["within_seconds"])
    finally:
        stop.set()
        release.set()
        thread.join(60)
    assert component.row(datetime.now(UTC))["expectations"] == {}


def test_a_notice_of_a_scan_that_was_erased_is_given_up(
    ledger: LedgerDriver, dispatcher: Dispatcher, channel: Told
) -> None:
    flag(ledger, 1)
    ledger.database.write(lambda c: c.execute(update(Outbox).values(model_version="gone")))
    assert [dispatcher.deliver(INTERVAL) for _ in range(2)] == [0, INTERVAL]
    assert channel.given == []
    assert counts(ledger)[OutboxState.GIVEN_UP] == 1


def test_pauses_double_up_to_the_cap_and_differ() -> None:
    patience = RetryPolicy(first=5, cap=900, days=3)
    assert [patience.delay(attempts, lambda: 0) for attempts in (0, 1, 2, 3, 9, 10_000)] == [5, 5, 10, 20, 900, 900]
    assert patience.delay(2, lambda: 1) == 5
    assert len({patience.delay(8) for _ in range(20)}) > 1
