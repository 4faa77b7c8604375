"""Commands that look into the ledger and mend it."""

from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from db import LARGEST_ID

if TYPE_CHECKING:
    from db.session import Database
    from pneumowatch.settings import Settings

Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Data = Annotated[
    Path | None, typer.Option("--data", help="The data folder (default: PNEUMOWATCH_DATA_DIR, or ./data).")
]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=LARGEST_ID, help="At most this many rows.")]

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
RULE_ADVICE: Final = {  # by which a file has no row, and what to do where it should have one
    "missing": "a running watcher registers them at its next rescan; `pneumowatch status` says whether one runs",
    "unlistable": "folders that cannot be looked into; give this user permission, or see to the share",
    "unreachable": "names that cannot be looked at; see to the share",
    "hidden": "they begin with a dot, or lie in a folder that does; never read",
    "system": "what desktops leave beside films; never read",
    "temporary": "unfinished copies by their names; read once they are renamed",
    "link": "links are not followed; put the film itself there",
    "not a file": "pipes, sockets, devices; never read",
}
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
    """Show how many films are in which state, by source, how long the oldest has waited, and how every part is.

    A part is well, stalled (it lives and does not do what it should), or silent (it is gone). A source is silent where
    no film came for longer than usual at this time of the week. [bold]pneumowatch doctor[/bold] ends with 1 where any
    of them is.
    """
    from db import heartbeats, ledger, outbox, presence, registry, scans, silence
    from pneumowatch import settings
    from pneumowatch.cli import mailroom
    from pneumowatch.cli.output import console, print_json, print_table
    from pneumowatch.durations import format_duration

    database, config = open_database(data), settings.load_settings(data_dir=data)
    now = ledger.utc_now()
    sources = database.read(scans.counts_by_source)
    oldest_waiting = database.read(scans.oldest_waiting_by_source)
    waiting_seconds = {name: round((now - since).total_seconds(), 1) for name, since in oldest_waiting.items()}
    counts = database.read(scans.counts_by_state)
    silences = database.read(
        lambda c: silence.assess_sources(c, now, config.silence_factor, timedelta(minutes=config.silence_minutes))
    )
    components = database.read(lambda c: heartbeats.readiness(c, config.lease_seconds))
    inbox_states = database.read(presence.inbox_states)
    outbox_counts = database.read(outbox.counts_by_channel)
    report = {
        "counts": counts,
        "inboxes": inbox_states,
        "sources": sources,
        "flagged": database.read(lambda c: scans.count_view_rows(c, "flagged_cases")),
        "flagged_unread": database.read(lambda c: scans.count_view_rows(c, "flagged_cases", unread=True)),
        "unscored": database.read(lambda c: scans.count_view_rows(c, "unscored_cases")),
        "oldest_waiting_seconds": max(waiting_seconds.values(), default=None),
        "oldest_waiting_seconds_by_source": waiting_seconds,
        "model": database.read(registry.champion_version),
        "ready": components.ready,
        "parts": [asdict(component) for component in components.components],
        "silence": [asdict(one) for one in silences],
        "outbox": outbox_counts,
    }
    if json:
        return print_json(report)
    for one in inbox_states:
        if one["state"] == presence.InboxState.UNAVAILABLE:
            console.print(f"inbox {one['inbox']} is away on {one['machine']}: {one['detail']}; its films wait")
    rows = [{"source": name, **of_source} for name, of_source in sources.items()]
    print_table(
        "Films by source and state",
        [*rows, {"source": "all", **{str(state): count for state, count in counts.items()}}],
        ["source", *counts],
    )
    if components.components:
        print_table(
            "Parts", [asdict(component) for component in components.components], ["component", "verdict", "sentence"]
        )
    if silences:
        print_table("Sources", [asdict(one) for one in silences], ["source", "verdict", "sentence"])
    console.print(f"flagged: {report['flagged']} ({report['flagged_unread']} without a verdict)")
    console.print(f"unscored: {report['unscored']}" + ("  -> pneumowatch unscored" if report["unscored"] else ""))
    for line in mailroom.summary_lines(outbox_counts):
        console.print(line)
    for name, seconds in waiting_seconds.items():
        console.print(f"the oldest film of {name} waits for {format_duration(seconds)}")
    if not waiting_seconds:
        console.print("nothing waits")
    if not components.components:
        console.print("no part is running: start `pneumowatch up`, or `watch` and `work`")
    return console.print(f"model: {report['model'] or 'none has read a film yet'}")


def reconcile(
    data: Data = None,
    inbox: Annotated[Path | None, typer.Option(help="The inbox of `up --inbox` (default: as configured).")] = None,
    json: Json = False,
) -> None:
    """Hold the folders against the ledger: name each file without a row, and the rule that ignores it.

    It looks, and changes nothing. Ends with 1 where a file is missing from the ledger, or nobody can say whether one
    is.
    """
    from pneumowatch import inboxes, settings
    from pneumowatch.cli.output import console, escape_unprintable, print_json, print_table
    from watcher.reconcile import reconcile_inboxes as compare

    config = settings.load_settings(data_dir=data)
    report = compare(open_database(data), inboxes.watched(config, inbox))
    rows = [
        {"source": one.source, "path": one.path.decode("utf-8", "backslashreplace"), "rule": one.rule}
        for one in report.unregistered
    ]
    if json:
        print_json({"closed": report.closed, "files": report.files, "rules": report.rules, "without_row": rows})
    else:
        print_table(
            "Files without a row",
            [{**row, "path": escape_unprintable(row["path"])} for row in rows],
            ["source", "rule", "path"],
        )
        for rule, count in sorted(report.rules.items()):
            console.print(f"{count} {rule}: {RULE_ADVICE[rule]}", markup=False)
        verdict = "The ledger is closed." if report.closed else "Files are missing from the ledger."
        console.print(f"{report.files} files have a row. {verdict}")
    raise typer.Exit(0 if report.closed else 1)


def requeue(
    scan_ids: Annotated[list[int] | None, typer.Argument(max=LARGEST_ID, help="Scans to try again, by id.")] = None,
    reason: Annotated[str | None, typer.Option(help="All rejected for this reason (see `unscored`).")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All that failed.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Try rejected or failed films again, after what was wrong has been mended.

    A running watcher or schedule announces them within seconds. What has a result, or waits, is left alone.
    """
    from sqlalchemy import or_

    from db import heartbeats, ledger
    from db.models import Scan
    from db.states import Reason, State
    from pneumowatch.cli.output import console, print_json

    if reason is not None and reason not in set(Reason):
        raise typer.BadParameter(f"'{reason}' is no reason; there are: {', '.join(Reason)}.", param_hint="--reason")
    conditions: list[ledger.Condition] = []
    if scan_ids:
        conditions.append(Scan.id.in_(scan_ids))
    if reason:
        conditions.append(Scan.reason == reason)
    if failed:
        conditions.append(Scan.state == State.FAILED)
    if not conditions:
        raise typer.BadParameter("say which: scan ids, --reason CODE, or --failed.")
    database = open_database(data)
    moved = database.write(lambda c: ledger.requeue(c, or_(*conditions), "command line"))
    if json:
        return print_json({"requeued": moved})
    console.print(f"{len(moved)} films are queued again.")
    if moved and not database.read(heartbeats.sweeper_is_alive):
        console.print("Nothing runs that announces them: start `pneumowatch up`, or `watch`.")
    return None


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

    rows = classify_files(files, settings.load_settings(), model, explain)
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

    config = settings.load_settings(data_dir=data)
    require_ledger(config)
    database = Database(config.database)
    schema.require_current(database)
    return database


def require_ledger(config: "Settings") -> None:
    """Raises DatabaseAway where there is none: looking for it would make one."""
    from pneumowatch.errors import DatabaseUnavailable

    if not config.database_url and not (config.data_dir / "pneumowatch.db").exists():
        raise DatabaseUnavailable(
            f"There is no ledger in {config.data_dir} yet; `pneumowatch up` makes one (--data names another)."
        )


def _list(
    view: str, title: str, columns: tuple[str, ...], data: Path | None, limit: int, json: bool, unread: bool = False
) -> None:
    from db import scans
    from pneumowatch.cli.output import console, print_json, print_table

    database = open_database(data)
    rows = database.read(lambda c: scans.view_rows(c, view, limit, unread))
    if json:
        return print_json(rows)
    print_table(title, rows, columns)
    total = database.read(lambda c: scans.count_view_rows(c, view, unread))
    if total > len(rows):
        console.print(f"{len(rows)} of {total}; --limit shows more.")
    return None
