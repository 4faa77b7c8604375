"""Deliver the rows of the outbox, with one dispatcher per channel, so that none waits for another's destination."""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from db.ledger import outbox
from db.ledger.outbox import Delivery
from db.session import Database
from notify.channels import Channel
from pneumowatch.component import Component
from pneumowatch.errors import DeliveryFailed, ShuttingDown
from pneumowatch.logs import get_logger
from pneumowatch.notification import MAIL
from pneumowatch.settings import Settings

log = get_logger("outbox")

MAX_DOUBLINGS: Final = 30  # with more, a delay is longer than any cap
DIGEST_SIZE: Final = 500  # scans in one e-mail at most
DELIVERY_STEPS: Final = 6  # of one delivery, each with its own timeout: two objects for a PACS, or the steps of SMTP


@dataclass(frozen=True)
class RetryPolicy:
    """Delays after failed attempts, in seconds (`first`, `cap`), and the time until giving up, in days."""

    first: float
    cap: float
    days: float

    def delay(self, attempts: int, chance: Callable[[], float] = random.random) -> float:
        """Return the seconds until the next attempt: doubled after each, up to the cap, less a random part of half.

        The random part prevents deliveries that failed together from being retried together.
        """
        full = min(self.cap, self.first * 2.0 ** min(max(attempts - 1, 0), MAX_DOUBLINGS))
        return full * (1 - chance() / 2)


class Dispatcher:
    """Delivers the due rows of one channel and records the outcome of each.

    Several dispatchers may run at once, also on several machines: each row is claimed by only one of them at a time.
    """

    def __init__(self, database: Database, channel: Channel, deployment: UUID, settings: Settings) -> None:
        self._database = database
        self._channel = channel
        self._deployment = deployment
        self._retry_policy = RetryPolicy(settings.resend_seconds, settings.resend_cap_seconds, settings.give_up_days)
        # longer than a delivery takes, else another dispatcher would claim the rows during it
        self._lease = timedelta(seconds=max(settings.lease_seconds, DELIVERY_STEPS * settings.send_seconds))
        self._max_delay = max(self._lease, timedelta(seconds=settings.resend_cap_seconds))
        digest = channel.kind == MAIL
        self._count = DIGEST_SIZE if digest else 1
        self._digest_interval = timedelta(minutes=settings.mail_minutes if digest else 0)
        self._failures = 0  # since the last successful delivery

    def run(self, stop: threading.Event, interval: float, component: Component) -> None:
        """Deliver until `stop` is set. Checks every `interval` seconds, or less often while the destination fails."""
        activity, delivery_seconds = f"delivery by {self._channel.kind}", self._lease.total_seconds()
        while not stop.is_set():
            component.expect_within(activity, delivery_seconds)
            pause = self.deliver(interval)
            component.expect_within(activity, pause + delivery_seconds)
            stop.wait(pause)
        component.clear_expectation(activity)

    def deliver(self, interval: float = 0) -> float:
        """Make one delivery, if any is due. Returns the seconds to wait before the next.

        They are 0 after a success, and `interval` where nothing was due.
        """
        delivery = self._take()
        if delivery is None:
            return interval
        if not delivery.notifications:
            return self._failed(delivery, DeliveryFailed("scan_erased", unavailable=False, permanent=True))
        try:
            self._channel.deliver(delivery.notifications)
        except DeliveryFailed as failure:
            return self._failed(delivery, failure)
        except ShuttingDown:
            raise
        except Exception as fault:  # noqa: BLE001 - an error for one scan must not block all later deliveries
            # only its class: its message may quote the DICOM header
            return self._failed(delivery, DeliveryFailed(type(fault).__name__[:64], unavailable=False))
        self._database.write(lambda c: outbox.mark_sent(c, delivery.token))
        if self._failures:
            self._database.write(lambda c: outbox.retry_now(c, self._channel.kind))
        self._failures = 0
        log.info("delivered", channel=self._channel.kind, scans=_ids(delivery))
        return 0

    def _take(self) -> Delivery | None:
        kind = self._channel.kind
        if not self._database.read(lambda c: outbox.has_due(c, kind, self._max_delay)):
            return None
        return self._database.write(
            lambda c: outbox.claim_delivery(
                c, kind, self._count, self._lease, self._deployment, self._max_delay, self._digest_interval
            )
        )

    def _failed(self, delivery: Delivery, failure: DeliveryFailed) -> float:
        kind, policy = self._channel.kind, self._retry_policy
        if failure.permanent:
            self._database.write(lambda c: outbox.give_up(c, delivery.token, failure.kind))
            log.warning(
                "delivery given up: the destination will never accept it",
                channel=kind,
                scans=_ids(delivery),
                error=failure.kind,
            )
            return 0
        requested_seconds = min(failure.retry_after, policy.cap)

        def delay(attempts: int) -> timedelta:
            return timedelta(seconds=max(requested_seconds, policy.delay(attempts)))

        limit = timedelta(days=policy.days)
        given_up = self._database.write(lambda c: outbox.retry_later(c, delivery.token, failure.kind, delay, limit))
        outcome = (
            "delivery given up; see `pneumowatch outbox`" if given_up else "delivery failed; it is tried again later"
        )
        log.warning(outcome, channel=kind, scans=_ids(delivery), error=failure.kind)
        if not failure.unavailable:
            return 0
        self._failures += 1
        return max(requested_seconds, policy.delay(self._failures))


def _ids(delivery: Delivery) -> list[int]:
    return [notification.scan_id for notification in delivery.notifications]
