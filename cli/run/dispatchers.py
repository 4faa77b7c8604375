"""Run one dispatcher per notification channel, in threads of `up` and `schedule`."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from db.session import Database
    from notify.dispatcher import Dispatcher
    from pneumowatch.component import Component
    from pneumowatch.settings import Settings


DELIVERY_GRACE_SECONDS: Final = 10.0  # within which a delivery that has begun ends, at a shutdown


def make_dispatchers(settings: "Settings", database: "Database", inboxes: Mapping[str, Path]) -> "list[Dispatcher]":
    """One for each way out that is set; none by default. Raises SettingsError where one cannot work as it is set."""
    from db import deployment
    from db.ledger import outbox as outbox_rows
    from pneumowatch.logs import get_logger

    for kind, states in database.read(outbox_rows.counts_by_channel).items():
        if states["waiting"] and kind not in settings.notification_channels:
            get_logger("outbox").warning(
                "messages wait, but their way out is not set here", channel=kind, waiting=states["waiting"]
            )
    if not settings.notification_channels:
        return []
    from notify.channels import configured_channels
    from notify.dispatcher import Dispatcher

    found = configured_channels(settings, inboxes)
    name = deployment.deployment_id(database)
    return [Dispatcher(database, channel, name, settings) for channel in found]


@contextmanager
def running_dispatchers(
    settings: "Settings", dispatchers: "list[Dispatcher]", stop: threading.Event, component: "Component"
) -> Iterator[None]:
    """A thread for each of them until `stop` is set, as it is when this is left: a receiver that hangs holds up neither
    the others nor any film. `component`: in whose heartbeat it is told when one of them hangs."""
    from pneumowatch.errors import ShuttingDown

    def deliver(dispatcher: "Dispatcher") -> None:
        with suppress(ShuttingDown):
            dispatcher.run(stop, settings.sweep_seconds, component)

    # daemons: who waits for a receiver that hangs is left behind, and his notice goes out again under the same id
    threads = [
        threading.Thread(target=deliver, args=(dispatcher,), name="dispatcher", daemon=True)
        for dispatcher in dispatchers
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(DELIVERY_GRACE_SECONDS)


def deliver_due(dispatchers: "list[Dispatcher]") -> None:
    """What is due now, each once; what fails stays for later."""
    for dispatcher in dispatchers:
        while dispatcher.deliver(interval=1) == 0:
            pass
