"""`outbox`: list the notifications that `up` or `schedule` has not delivered yet."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Final

import typer

from cli.connection import open_database
from cli.options import Data, Json, Limit

OUTBOX_COLUMNS: Final = ("scan_id", "channel", "state", "since", "attempts", "last_error", "not_before")


def outbox(
    retry: Annotated[
        bool,
        typer.Option("--retry", help="Retry now: notifications that were given up, and those waiting for a retry."),
    ] = False,
    data: Data = None,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """List notifications about flagged scans that are not delivered yet: webhook, e-mail, PACS.

    A notification is given up after repeated failures; [bold]last_error[/bold] says why it failed.
    """
    from cli.output import console, print_json, print_table
    from db.ledger import outbox as outbox_rows

    database = open_database(data)
    retried = database.write(outbox_rows.requeue_given_up) if retry else None
    rows = database.read(lambda c: outbox_rows.undelivered(c, limit))
    counts = database.read(outbox_rows.counts_by_channel)
    if json:
        return print_json({"counts": counts, "undelivered": rows, "retried": retried})
    if retried is not None:
        console.print(f"{retried} notifications are tried again; a running `up` or `schedule` delivers them.")
    print_table("Not delivered", rows, OUTBOX_COLUMNS)
    for line in summary_lines(counts):
        console.print(line)
    return None


def summary_lines(counts: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """Yield one line per channel with its counts (`db.ledger.outbox.counts_by_channel`)."""
    for kind, states in counts.items():
        hint = "  -> pneumowatch outbox" if states["given_up"] else ""
        yield (f"{kind}: {states['sent']} delivered, {states['waiting']} waiting, {states['given_up']} given up{hint}")
