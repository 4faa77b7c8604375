"""What goes out of the house, while `up` or `schedule` runs, and the command that looks into the outbox: `outbox`."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from pneumowatch.cli.query import Data, Json, Limit, open_database

if TYPE_CHECKING:
    from db.postman import Postman
    from db.pulse import Part
    from db.session import Database
    from pneumowatch.settings import Settings

GRACE_SECONDS: Final = 10.0  # within which a delivery that has begun ends, at a shutdown
COLUMNS: Final = ("scan_id", "kind", "state", "since", "attempts", "last_error", "not_before")


def outbox(
    again: Annotated[
        bool, typer.Option("--again", help="Try what was given up again, and at once what waits for its next attempt.")
    ] = False,
    data: Data = None,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """List what could not be told yet of flagged films: to the webhook, by e-mail, to the PACS."""
    from db import outbox as box
    from pneumowatch.cli.output import console, print_json, print_table

    database = open_database(data)
    anew = database.write(box.again) if again else None
    rows = database.read(lambda c: box.undelivered(c, limit))
    counts = database.read(box.counts)
    if json:
        return print_json({"counts": counts, "undelivered": rows, "tried_again": anew})
    if anew is not None:
        console.print(f"{anew} that were given up are tried again; a running `up` or `schedule` delivers them.")
    print_table("Not delivered", rows, COLUMNS)
    for line in lines(counts):
        console.print(line)
    return None


def lines(counts: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """For each way out, what `db.outbox.counts` says of it."""
    for kind, states in counts.items():
        hint = "  -> pneumowatch outbox" if states["given_up"] else ""
        yield (
            f"{kind}: {states['sent']} delivered, {states['waiting']} wait, {states['given_up']} were given up{hint}"
        )


def postmen(settings: "Settings", database: "Database", inboxes: Mapping[str, Path]) -> "list[Postman]":
    """One for each way out that is set; none by default. Raises SettingsError where one cannot work as it is set."""
    from db import deployment
    from db import outbox as box
    from pneumowatch.logs import get

    for kind, states in database.read(box.counts).items():
        if states["waiting"] and kind not in settings.destinations:
            get("outbox").warning(
                "messages wait, but their way out is not set here", way=kind, waiting=states["waiting"]
            )
    if not settings.destinations:
        return []
    from db.postman import Postman
    from pneumowatch.outgoing import couriers

    found = couriers(settings, inboxes)
    name = deployment.identity(database)
    return [Postman(database, courier, name, settings) for courier in found]


@contextmanager
def delivering(settings: "Settings", men: "list[Postman]", stop: threading.Event, part: "Part") -> Iterator[None]:
    """A thread for each of them until `stop` is set, as it is when this is left: a receiver that hangs holds up neither
    the others nor any film. `part`: in whose heartbeat it is told when one of them hangs."""
    from pneumowatch.errors import ShuttingDown

    def deliver(man: "Postman") -> None:
        with suppress(ShuttingDown):
            man.run(stop, settings.sweep_seconds, part)

    # daemons: who waits for a receiver that hangs is left behind, and his notice goes out again under the same id
    threads = [threading.Thread(target=deliver, args=(man,), name="postman", daemon=True) for man in men]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(GRACE_SECONDS)


def deliver_all(men: "list[Postman]") -> None:
    """What is due now, each once; what fails stays for later."""
    for man in men:
        while man.deliver(interval=1) == 0:
            pass
