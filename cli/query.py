"""Commands that list scans, compare the ledger with the folders, and queue scans again."""

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
RULE_ADVICE: Final = {  # rule by which a file has no row -> what to do
    "missing": "a running watcher registers them at its next rescan; `pneumowatch status` tells whether one runs",
    "unlistable": "folders that cannot be listed; give this user permission, or check the share",
    "unreachable": "names that cannot be examined; check the share",
    "hidden": "the name, or a folder's name, begins with a dot; ignored",
    "system": "files of an operating system; ignored",
    "temporary": "unfinished copies, by their names; registered once they are renamed",
    "link": "links are not followed; put the file itself there",
    "not a file": "pipes, sockets, devices; ignored",
}
UNSCORED_COLUMNS: Final = ("scan_id", "state", "reason", "detail", "path", "source")


def flagged(
    data: Data = None,
    limit: Limit = 50,
    unread: Annotated[bool, typer.Option(help="Only scans without a verdict.")] = False,
    json: Json = False,
) -> None:
    """List flagged scans, the most probable first.

    The SQL view flagged_cases has the same rows.
    """
    _list("flagged_cases", "Flagged scans", FLAGGED_COLUMNS, data, limit, json, unread)


def unscored(data: Data = None, limit: Limit = 50, json: Json = False) -> None:
    """List scans without a result: rejected or failed, with the reason, or waiting for too long.

    The SQL view unscored_cases has the same rows. [bold]pneumowatch requeue[/bold] tries scans again.
    """
    _list("unscored_cases", "Scans without a result", UNSCORED_COLUMNS, data, limit, json)


def status(data: Data = None, json: Json = False) -> None:
    """Show the number of scans by source and state, the longest wait, and the health of all components.

    A component is healthy, stalled (it runs but makes no progress), or silent (it is gone). A source is silent if it
    has sent nothing for longer than usual at this time of the week. [bold]pneumowatch doctor[/bold] exits with 1 if
    any of them is stalled or silent.
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
            console.print(f"inbox {one['inbox']} is away on {one['machine']}: {one['detail']}; its scans wait")
    rows = [{"source": name, **of_source} for name, of_source in sources.items()]
    print_table(
        "Scans by source and state",
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
        console.print(f"the oldest scan of {name} has waited for {format_duration(seconds)}")
    if not waiting_seconds:
        console.print("no scan waits")
    if not readiness.components:
        console.print("no component is running: start `pneumowatch up`, or `watch` and `work`")
    return console.print(f"model: {report['model'] or 'none yet'}")


def reconcile(
    data: Data = None,
    inbox: Annotated[Path | None, typer.Option(help="The inbox of `up --inbox` (default: as configured).")] = None,
    json: Json = False,
) -> None:
    """Compare the inboxes with the ledger: list each file without a row, and the rule that ignores it.

    Changes nothing. Exits with 1 if a file is missing from the ledger, or if a folder or name cannot be examined.
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
        conclusion = "The ledger is closed." if report.closed else "Files are missing from the ledger."
        console.print(f"{report.files} files have a row. {conclusion}")
    raise typer.Exit(0 if report.closed else 1)


def requeue(
    scan_ids: Annotated[list[int] | None, typer.Argument(max=LARGEST_ID, help="Ids of the scans to try again.")] = None,
    reason: Annotated[str | None, typer.Option(help="All scans rejected for this reason (see `unscored`).")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All failed scans.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Queue rejected or failed scans again, after the cause has been fixed.

    A running watcher or schedule announces them within seconds. Scans that have a result or are waiting do not change.
    """
    from cli.output import console, print_json
    from db.health import heartbeats
    from db.ledger import transitions
    from db.states import Reason

    if reason is not None and reason not in set(Reason):
        raise typer.BadParameter(f"'{reason}' is not a reason; use one of: {', '.join(Reason)}.", param_hint="--reason")
    if not (scan_ids or reason or failed):
        raise typer.BadParameter("say which scans: ids, --reason CODE, or --failed.")
    database, code = open_database(data), Reason(reason) if reason else None
    moved = database.write(
        lambda c: transitions.requeue_matching(c, ACTOR, scan_ids=scan_ids or (), reason=code, failed=failed)
    )
    if json:
        return print_json({"requeued": moved})
    console.print(f"{len(moved)} scans are queued again.")
    if moved and not database.read(heartbeats.sweeper_is_alive):
        console.print("No running component announces them: start `pneumowatch up`, or `watch`.")
    return None


def classify(
    files: Annotated[list[Path], typer.Argument(help="Image files: DICOM, JPEG, PNG, TIFF, ...")],
    model: Annotated[
        Path | None, typer.Option(help="A model folder (default: the champion, else the shipped one).")
    ] = None,
    explain: Annotated[
        Path | None,
        typer.Option("--explain", help="Folder for overlays: each image with the region that moved the model."),
    ] = None,
    json: Json = False,
) -> None:
    """Classify image files directly, without queue or database. Exits with 1 if a file got no result.

    The overlays of [bold]--explain[/bold] show each image as the model saw it, under a heatmap of the region that moved
    the model. That is not where disease is. They carry the files' names and show patients: protect them like the
    images.
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
        console.print(f"{len(rows)} of {total} rows; --limit shows more.")
    return None
