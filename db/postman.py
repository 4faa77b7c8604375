"""Who brings out what stands in the outbox: one postman for each way out, so that none waits for another's receiver."""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from db import outbox
from db.outbox import Parcel
from db.pulse import Part
from db.session import Database
from pneumowatch.errors import ShuttingDown, Undelivered
from pneumowatch.logs import get
from pneumowatch.outgoing import MAIL, Courier
from pneumowatch.settings import Settings

log = get("outbox")

DOUBLINGS: Final = 30  # beyond which a pause is longer than any cap
DIGEST: Final = 500  # scans of one e-mail at most
STEPS: Final = 6  # of one delivery, each with a bound of its own: two objects into a PACS, or a mail server's greetings


@dataclass(frozen=True)
class Patience:
    """How long to wait after a failed attempt, and for how long to go on: seconds, and days."""

    first: float
    cap: float
    days: float

    def delay(self, attempts: int, chance: Callable[[], float] = random.random) -> float:
        """Seconds until the next one: doubled with each, up to the cap, less a chance part of half of it, so that those
        that failed together do not come back together."""
        full = min(self.cap, self.first * 2.0 ** min(max(attempts - 1, 0), DOUBLINGS))
        return full * (1 - chance() / 2)


class Postman:
    """Takes what is due for one way out, hands it to the courier, and writes down what came of it.

    Several at once, in several places, are harmless: each notice is held by one of them at a time.
    """

    def __init__(self, database: Database, courier: Courier, deployment: UUID, settings: Settings) -> None:
        self._database = database
        self._courier = courier
        self._deployment = deployment
        self._patience = Patience(settings.resend_seconds, settings.resend_cap_seconds, settings.give_up_days)
        # longer than a delivery takes, else another would begin while this one still goes on
        self._lease = timedelta(seconds=max(settings.lease_seconds, STEPS * settings.send_seconds))
        self._furthest = max(self._lease, timedelta(seconds=settings.resend_cap_seconds))
        digest = courier.kind == MAIL
        self._count = DIGEST if digest else 1
        self._every = timedelta(minutes=settings.mail_minutes if digest else 0)
        self._failures = 0  # since the destination last took something

    def run(self, stop: threading.Event, interval: float, part: Part) -> None:
        """Deliver until `stop` is set, looking every `interval` seconds, or later where the destination is away."""
        duty, delivery = f"what goes out by {self._courier.kind}", self._lease.total_seconds()
        while not stop.is_set():
            part.promise(duty, delivery)
            pause = self.deliver(interval)
            part.promise(duty, pause + delivery)
            stop.wait(pause)
        part.keep(duty)

    def deliver(self, interval: float = 0) -> float:
        """One delivery, if anything is due. Returns the seconds to wait before the next: none after one that went well,
        `interval` where there was nothing to do."""
        parcel = self._take()
        if parcel is None:
            return interval
        if not parcel.notices:
            return self._failed(parcel, Undelivered("scan_erased", away=False, final=True))
        try:
            self._courier.deliver(parcel.notices)
        except Undelivered as failure:
            return self._failed(parcel, failure)
        except ShuttingDown:
            raise
        except Exception as fault:  # noqa: BLE001 - one odd film must not keep all that come after it from going out
            # its kind alone: what it says may quote the film's header
            return self._failed(parcel, Undelivered(type(fault).__name__[:64], away=False))
        self._database.write(lambda c: outbox.delivered(c, parcel.token))
        if self._failures:
            self._database.write(lambda c: outbox.hasten(c, self._courier.kind))
        self._failures = 0
        log.info("delivered", way=self._courier.kind, scans=_ids(parcel))
        return 0

    def _take(self) -> Parcel | None:
        kind = self._courier.kind
        if not self._database.read(lambda c: outbox.is_due(c, kind, self._furthest)):
            return None
        return self._database.write(
            lambda c: outbox.take(c, kind, self._count, self._lease, self._deployment, self._furthest, self._every)
        )

    def _failed(self, parcel: Parcel, failure: Undelivered) -> float:
        kind, patience = self._courier.kind, self._patience
        if failure.final:
            self._database.write(lambda c: outbox.give_up(c, parcel.token, failure.kind))
            log.warning("given up: it will never be taken", way=kind, scans=_ids(parcel), error=failure.kind)
            return 0
        asked = min(failure.wait, patience.cap)

        def delay(attempts: int) -> timedelta:
            return timedelta(seconds=max(asked, patience.delay(attempts)))

        limit = timedelta(days=patience.days)
        given_up = self._database.write(lambda c: outbox.put_off(c, parcel.token, failure.kind, delay, limit))
        said = "given up after days" if given_up else "not delivered; tried again later"
        log.warning(said, way=kind, scans=_ids(parcel), error=failure.kind)
        if not failure.away:
            return 0
        self._failures += 1
        return max(asked, patience.delay(self._failures))


def _ids(parcel: Parcel) -> list[int]:
    return [notice.scan_id for notice in parcel.notices]
