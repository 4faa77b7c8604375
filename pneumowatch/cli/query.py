"""Commands that look into the ledger and mend it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:
    from db.session import Database

Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Data = Annotated[
    Path | None, typer.Option("--data", help="The data folder (default: PNEUMOWATCH_DATA_DIR, or ./data).")
]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="At most this many rows.")]

FLAGGED_COLUMNS: Final = ("scan_id", "probability", "caution", "path", "source", "received_at", "verdict")
CLASSIFY_COLUMNS: Final = (
    "path",
    "state",
    "probability",
    "flagged",
    "caution",
    "threshold",
    "reason",
    "sentence",
)
UNSCORED_COLUMNS: Final = ("scan_id", "state", "reason", "detail", "path", "source")


def flagged(data: Data = None, limit: Limit = 50, unread: bool = False, json: Json = False) -> None:
    """List flagged films, the most probable first.

    [bold]--unread[/bold] leaves out those that have a verdict. The same rows stand in the SQL view flagged_cases.
    """
    _list("flagged_cases", "Flagged films", FLAGGED_COLUMNS, data, limit, json, unread)


def unscored(data: Data = None, limit: Limit = 50, json: Json = False) -> None:
    """List what nobody has read: rejected and failed films, with the reason, and those that wait too long.

    The same rows stand in the SQL view unscored_cases. [bold]pneumowatch requeue[/bold] tries them again.
    """
    _list("unscored_cases", "Films that got no result", UNSCORED_COLUMNS, data, limit, json)


def status(data: Data = None, json: Json = False) -> None:
    """Show how many films are in which state, by source, and how long the oldest has waited."""
    from db import ledger, registry, scans
    from pneumowatch.cli.output import console, print_json, print_table

    database = open_database(data)
    sources = database.read(scans.counts_by_source)
    oldest = database.read(scans.oldest_waiting)
    counts = database.read(scans.counts)
    report = {
        "counts": counts,
        "sources": sources,
        "flagged": database.read(lambda c: scans.size_of(c, "flagged_cases")),
        "flagged_unread": database.read(lambda c: scans.size_of(c, "flagged_cases", unread=True)),
        "unscored": database.read(lambda c: scans.size_of(c, "unscored_cases")),
        "oldest_waiting_seconds": None if oldest is None else round((ledger.now() - oldest).total_seconds(), 1),
        "model": database.read(registry.champion),
    }
    if json:
        return print_json(report)
    rows = [{"source": name, **of_source} for name, of_source in sources.items()]
    print_table(
        "Films by source and state",
        [*rows, {"source": "all", **{str(state): count for state, count in counts.items()}}],
        ["source", *counts],
    )
    waited = report["oldest_waiting_seconds"]
    console.print(f"flagged: {report['flagged']} ({report['flagged_unread']} without a verdict)")
    console.print(f"unscored: {report['unscored']}" + ("  -> pneumowatch unscored" if report["unscored"] else ""))
    console.print("nothing waits" if waited is None else f"the oldest film waits for {waited:.0f} s")
    return console.print(f"model: {report['model'] or 'none has read a film yet'}")


def reconcile(
    data: Data = None,
    inbox: Annotated[Path | None, typer.Option(help="The inbox of `up --inbox` (default: as configured).")] = None,
    json: Json = False,
) -> None:
    """Hold the folders against the ledger: name each file without a row, and the rule that ignores it.

    Ends with 1 where a file is missing from the ledger. A running watcher registers such files at its next rescan.
    """
    from pneumowatch import inboxes, settings
    from pneumowatch.cli.output import console, print_json, print_table, printable
    from watcher.reconcile import reconcile as hold

    given = settings.load(data_dir=data)
    report = hold(open_database(data), inboxes.watched(given, inbox))
    rows = [
        {"source": one.source, "path": one.path.decode("utf-8", "backslashreplace"), "rule": one.rule}
        for one in report.unlisted
    ]
    if json:
        print_json({"closed": report.closed, "files": report.files, "rules": report.rules, "without_row": rows})
    else:
        print_table(
            "Files without a row", [{**row, "path": printable(row["path"])} for row in rows], ["source", "rule", "path"]
        )
        verdict = "The ledger is closed." if report.closed else "Files are missing from the ledger."
        console.print(f"{report.files} files have a row. {verdict}")
    raise typer.Exit(0 if report.closed else 1)


def requeue(
    scan_ids: Annotated[list[int] | None, typer.Argument(help="Scans to try again, by id.")] = None,
    reason: Annotated[str | None, typer.Option(help="All rejected for this reason (see `unscored`).")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All that failed.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Try rejected or failed films again, after what was wrong has been mended.

    A running watcher announces them within seconds.
    """
    from sqlalchemy import or_

    from db import ledger
    from db.models import Scan
    from db.states import Reason, State
    from pneumowatch.cli.output import console, print_json

    if reason is not None and reason not in set(Reason):
        raise typer.BadParameter(f"'{reason}' is no reason; there are: {', '.join(Reason)}.", param_hint="--reason")
    chosen: list[ledger.Condition] = []
    if scan_ids:
        chosen.append(Scan.id.in_(scan_ids))
    if reason:
        chosen.append(Scan.reason == reason)
    if failed:
        chosen.append(Scan.state == State.FAILED)
    if not chosen:
        raise typer.BadParameter("say which: scan ids, --reason CODE, or --failed.")
    moved = open_database(data).write(lambda c: ledger.requeue(c, or_(*chosen), "command line"))
    if json:
        return print_json({"requeued": moved})
    return console.print(f"{len(moved)} films are queued again.")


def classify(
    files: Annotated[list[Path], typer.Argument(help="Films.")],
    model: Annotated[
        Path | None, typer.Option(help="A model folder (default: the champion, else the shipped one).")
    ] = None,
    explain: Annotated[
        Path | None, typer.Option("--explain", help="Write a picture of each film here, with what moved the model.")
    ] = None,
    json: Json = False,
) -> None:
    """Classify films right here, without queue or database. Ends with 1 where a film got no result.

    The pictures of [bold]--explain[/bold] show the film as the model saw it beneath the heat of what moved the model,
    which is not where disease is. They bear the films' names and show patients: keep them as you keep the films.
    """
    from pneumowatch import settings
    from pneumowatch.cli.output import print_json, print_table
    from worker.here import classify_files

    rows = classify_files(files, settings.load(), model, explain)
    if json:
        print_json(rows)
    else:
        print_table("Results", rows, CLASSIFY_COLUMNS)
    raise typer.Exit(0 if all(row["state"] == "classified" for row in rows) else 1)


def open_database(data: Path | None) -> "Database":
    """The database of these settings, at the right revision."""
    from db import schema
    from db.session import Database
    from pneumowatch import settings
    from pneumowatch.errors import DatabaseAway

    given = settings.load(data_dir=data)
    if not given.database_url and not (given.data_dir / "pneumowatch.db").exists():
        raise DatabaseAway(
            f"There is no ledger in {given.data_dir} yet; `pneumowatch up` makes one (--data names another)."
        )
    database = Database(given.database)
    schema.require_current(database)
    return database


def _list(
    view: str, title: str, columns: tuple[str, ...], data: Path | None, limit: int, json: bool, unread: bool = False
) -> None:
    from db import scans
    from pneumowatch.cli.output import console, print_json, print_table

    database = open_database(data)
    rows = database.read(lambda c: scans.listing(c, view, limit, unread))
    if json:
        return print_json(rows)
    print_table(title, rows, columns)
    total = database.read(lambda c: scans.size_of(c, view, unread))
    if total > len(rows):
        console.print(f"{len(rows)} of {total}; --limit shows more.")
    return None
