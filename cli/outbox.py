"""What goes out of the house, while `up` or `schedule` runs, and the command that looks into the outbox: `outbox`."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Final

import typer

from cli.connection import open_database
from cli.options import Data, Json, Limit

OUTBOX_COLUMNS: Final = ("scan_id", "channel", "state", "since", "attempts", "last_error", "not_before")


def outbox(
    retry: Annotated[
        bool, typer.Option("--retry", help="Try what was given up again, and at once what waits for its next attempt.")
    ] = False,
    data: Data = None,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """List what could not be told yet of flagged films: to the webhook, by e-mail, to the PACS."""
    from cli.output import console, print_json, print_table
    from db.ledger import outbox as outbox_rows

    database = open_database(data)
    retried = database.write(outbox_rows.requeue_given_up) if retry else None
    rows = database.read(lambda c: outbox_rows.undelivered(c, limit))
    counts = database.read(outbox_rows.counts_by_channel)
    if json:
        return print_json({"counts": counts, "undelivered": rows, "retried": retried})
    if retried is not None:
        console.print(f"{retried} that were given up are tried again; a running `up` or `schedule` delivers them.")
    print_table("Not delivered", rows, OUTBOX_COLUMNS)
    for line in summary_lines(counts):
        console.print(line)
    return None


def summary_lines(counts: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """For each way out, what `db.ledger.outbox.counts_by_channel` says of it."""
    for kind, states in counts.items():
        hint = "  -> pneumowatch outbox" if states["given_up"] else ""
        yield (
            f"{kind}: {states['sent']} delivered, {states['waiting']} wait, {states['given_up']} were given up{hint}"
        )
