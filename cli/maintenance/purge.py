"""`purge`: remove old stored images, events and audit rows."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from cli.connection import open_database
from cli.options import ACTOR, Data, DryRun, Json


def purge(
    older_than: Annotated[str, typer.Option("--older-than", metavar="AGE", help="Minimum age: 12h, 90d, 8w, ...")],
    images: Annotated[
        bool, typer.Option("--images", help="Stored images, except those of reviewed scans: they are training data.")
    ] = False,
    reviewed: Annotated[bool, typer.Option("--reviewed", help="With --images: reviewed ones too.")] = False,
    events: Annotated[bool, typer.Option("--events", help="The event history of scans.")] = False,
    audit: Annotated[bool, typer.Option("--audit", help="The audit log: who did what.")] = False,
    dry_run: DryRun = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Remove old stored images, events or audit rows. Safe while everything runs.

    Scans, results and verdicts stay, so the ledger stays closed. Inboxes are never changed.
    """
    from cli.output import console, print_json
    from db.maintenance import retention
    from db.worklist import audit as audit_log
    from pneumowatch import durations, settings

    if not images and not events and not audit:
        raise typer.BadParameter("say what to remove: --images, --events or --audit.")
    try:
        before = datetime.now(UTC) - durations.parse_duration(older_than)
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(f"{error}.", param_hint="--older-than") from None
    database, config = open_database(data), settings.load_settings(data_dir=data)
    report: dict[str, Any] = {"before": before, "dry_run": dry_run}
    if images:
        report["images"] = asdict(retention.purge_images(database, config.data_dir, before, reviewed, dry_run))
    if events:
        report["events"] = retention.purge_events(database, before, dry_run)
    if audit:
        report["audit"] = retention.purge_audit(database, before, dry_run)
    if not dry_run:
        what = " ".join(name for name in ("images", "events", "audit") if name in report)
        database.write(
            lambda c: audit_log.record_action(
                c, ACTOR, audit_log.AuditAction.PURGE, detail=f"{what} older than {older_than}"
            )
        )
    if json:
        return print_json(report)
    would = "would be removed" if dry_run else "were removed"
    if images:
        found = report["images"]
        console.print(f"{found['removed']} stored images {would} ({found['bytes']:,} bytes).", highlight=False)
        if found["reviewed"]:
            console.print(f"{found['reviewed']} reviewed ones stay as training data; --reviewed removes them too.")
    for name in ("events", "audit"):
        if name in report:
            console.print(f"{report[name]} rows of {name} {would}.")
    return None
