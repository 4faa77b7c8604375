"""What goes out of the house, while `up` or `schedule` runs, and the command that looks into the outbox: `outbox`."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from pneumowatch.cli.query import Data, Json, Limit, open_database

if TYPE_CHECKING:
    from db.postman import Dispatcher
    from db.pulse import Component
    from db.session import Database
    from pneumowatch.settings import Settings

DELIVERY_GRACE_SECONDS: Final = 10.0  # within which a delivery that has begun ends, at a shutdown
OUTBOX_COLUMNS: Final = ("scan_id", "kind", "state", "since", "attempts", "last_error", "not_before")


def outbox(
    again: Annotated[
        bool, typer.Option("--again", help="Try what was given up again, and at once what waits for its next attempt.")
    ] = False,
    data: Data = None,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """List what could not be told yet of flagged films: to the webhook, by e-mail, to the PACS."""
    from db import outbox as outbox_rows
    from pneumowatch.cli.output import console, print_json, print_table

    database = open_database(data)
    retried = database.write(outbox_rows.requeue_given_up) if again else None
    rows = database.read(lambda c: outbox_rows.undelivered(c, limit))
    counts = database.read(outbox_rows.counts_by_channel)
    if json:
        return print_json({"counts": counts, "undelivered": rows, "tried_again": retried})
    if retried is not None:
        console.print(f"{retried} that were given up are tried again; a running `up` or `schedule` delivers them.")
    print_table("Not delivered", rows, OUTBOX_COLUMNS)
    for line in summary_lines(counts):
        console.print(line)
    return None


def summary_lines(counts: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """For each way out, what `db.outbox.counts_by_channel` says of it."""
    for kind, states in counts.items():
        hint = "  -> pneumowatch outbox" if states["given_up"] else ""
        yield (
            f"{kind}: {states['sent']} delivered, {states['waiting']} wait, {states['given_up']} were given up{hint}"
        )


def make_dispatchers(settings: "Settings", database: "Database", inboxes: Mapping[str, Path]) -> "list[Dispatcher]":
    """One for each way out that is set; none by default. Raises SettingsError where one cannot work as it is set."""
    from db import deployment
    from db import outbox as outbox_rows
    from pneumowatch.logs import get_logger

    for kind, states in database.read(outbox_rows.counts_by_channel).items():
        if states["waiting"] and kind not in settings.destinations:
            get_logger("outbox").warning(
                "messages wait, but their way out is not set here", channel=kind, waiting=states["waiting"]
            )
    if not settings.destinations:
        return []
    from db.postman import Dispatcher
    from pneumowatch.outgoing import configured_channels

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
        threading.Thread(target=deliver, args=(dispatcher,), name="postman", daemon=True) for dispatcher in dispatchers
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
