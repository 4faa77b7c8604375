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


DELIVERY_GRACE_SECONDS: Final = 10.0  # that a started delivery gets to finish at shutdown


def make_dispatchers(settings: "Settings", database: "Database", inboxes: Mapping[str, Path]) -> "list[Dispatcher]":
    """Make one dispatcher per configured channel; none by default. Raises SettingsError where a setting is wrong."""
    from db import deployment
    from db.ledger import outbox as outbox_rows
    from pneumowatch.logs import get_logger

    for kind, states in database.read(outbox_rows.counts_by_channel).items():
        if states["waiting"] and kind not in settings.notification_channels:
            get_logger("outbox").warning(
                "notifications wait, but their channel is not configured here", channel=kind, waiting=states["waiting"]
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
    """Run each dispatcher in a thread of its own until `stop` is set; sets `stop` on exit.

    A receiver that hangs delays neither the other channels nor any scan. `component`: its heartbeat reports when a
    dispatcher hangs.
    """
    from pneumowatch.errors import ShuttingDown

    def deliver(dispatcher: "Dispatcher") -> None:
        with suppress(ShuttingDown):
            dispatcher.run(stop, settings.sweep_seconds, component)

    # daemons: a thread that hangs on its receiver is abandoned; its notification is sent again under the same id
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
    """Deliver each due notification once; those that fail stay for later."""
    for dispatcher in dispatchers:
        while dispatcher.deliver(interval=1) == 0:
            pass
