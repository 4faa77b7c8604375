"""Commands that look into the ledger and mend it."""

from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final

import typer

from cli.connection import open_database
from cli.options import ACTOR, Data, Json, Limit
from db import LARGEST_ID

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
    from cli import outbox as outbox_command
    from cli.output import console, print_json, print_table
    from db.health import heartbeats, inbox_presence, source_silence
    from db.ledger import outbox, queries, transitions
    from db.registry import model_registry
    from pneumowatch import settings
    from pneumowatch.durations import format_duration

    database, config = open_database(data), settings.load_settings(data_dir=data)
    now = transitions.utc_now()
    sources = database.read(queries.counts_by_source)
    oldest_waiting = database.read(queries.oldest_waiting_by_source)
    waiting_seconds = {name: round((now - since).total_seconds(), 1) for name, since in oldest_waiting.items()}
    counts = database.read(queries.counts_by_state)
    silences = database.read(
        lambda c: source_silence.assess_sources(
            c, now, config.silence_factor, timedelta(minutes=config.silence_minutes)
        )
    )
    readiness = database.read(lambda c: heartbeats.readiness(c, config.lease_seconds))
    inbox_states = database.read(inbox_presence.inbox_states)
    outbox_counts = database.read(outbox.counts_by_channel)
    report = {
        "counts": counts,
        "inboxes": inbox_states,
        "sources": sources,
        "flagged": database.read(lambda c: queries.count_view_rows(c, "flagged_cases")),
        "flagged_unread": database.read(lambda c: queries.count_view_rows(c, "flagged_cases", unread=True)),
        "unscored": database.read(lambda c: queries.count_view_rows(c, "unscored_cases")),
        "oldest_waiting_seconds": max(waiting_seconds.values(), default=None),
        "oldest_waiting_seconds_by_source": waiting_seconds,
        "model": database.read(model_registry.champion_version),
        "ready": readiness.ready,
        "components": [asdict(component) for component in readiness.components],
        "silence": [asdict(one) for one in silences],
        "outbox": outbox_counts,
    }
    if json:
        return print_json(report)
    for one in inbox_states:
        if one["state"] == inbox_presence.InboxState.UNAVAILABLE:
            console.print(f"inbox {one['inbox']} is away on {one['machine']}: {one['detail']}; its films wait")
    rows = [{"source": name, **of_source} for name, of_source in sources.items()]
    print_table(
        "Films by source and state",
        [*rows, {"source": "all", **{str(state): count for state, count in counts.items()}}],
        ["source", *counts],
    )
    if readiness.components:
        print_table(
            "Components", [asdict(component) for component in readiness.components], ["component", "status", "sentence"]
        )
    if silences:
        print_table("Sources", [asdict(one) for one in silences], ["source", "status", "sentence"])
    console.print(f"flagged: {report['flagged']} ({report['flagged_unread']} without a verdict)")
    console.print(f"unscored: {report['unscored']}" + ("  -> pneumowatch unscored" if report["unscored"] else ""))
    for line in outbox_command.summary_lines(outbox_counts):
        console.print(line)
    for name, seconds in waiting_seconds.items():
        console.print(f"the oldest film of {name} waits for {format_duration(seconds)}")
    if not waiting_seconds:
        console.print("nothing waits")
    if not readiness.components:
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
    from cli.output import console, escape_unprintable, print_json, print_table
    from pneumowatch import inboxes, settings
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
    from cli.output import console, print_json
    from db.health import heartbeats
    from db.ledger import transitions
    from db.states import Reason

    if reason is not None and reason not in set(Reason):
        raise typer.BadParameter(f"'{reason}' is no reason; there are: {', '.join(Reason)}.", param_hint="--reason")
    if not (scan_ids or reason or failed):
        raise typer.BadParameter("say which: scan ids, --reason CODE, or --failed.")
    database, code = open_database(data), Reason(reason) if reason else None
    moved = database.write(
        lambda c: transitions.requeue_matching(c, ACTOR, scan_ids=scan_ids or (), reason=code, failed=failed)
    )
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
    from cli.output import print_json, print_table
    from pneumowatch import settings
    from worker.in_process import classify_files

    rows = classify_files(files, settings.load_settings(), model, explain)
    if json:
        print_json(rows)
    else:
        print_table("Results", rows, CLASSIFY_COLUMNS)
    raise typer.Exit(0 if all(row["state"] == "classified" for row in rows) else 1)


def _list(
    view: str, title: str, columns: tuple[str, ...], data: Path | None, limit: int, json: bool, unread: bool = False
) -> None:
    from cli.output import console, print_json, print_table
    from db.ledger import queries

    database = open_database(data)
    rows = database.read(lambda c: queries.view_rows(c, view, limit, unread))
    if json:
        return print_json(rows)
    print_table(title, rows, columns)
    total = database.read(lambda c: queries.count_view_rows(c, view, unread))
    if total > len(rows):
        console.print(f"{len(rows)} of {total}; --limit shows more.")
    return None
