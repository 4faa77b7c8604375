"""Commands that remove: what is old (`purge`), and what is known of a patient (`erase`)."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from db import LARGEST_ID
from pneumowatch.cli.query import Data, Json, open_database

if TYPE_CHECKING:
    from db.erasure import ErasureScope
    from db.session import Database
    from pneumowatch.settings import Settings

ACTOR: Final = "command line"
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")]


def purge(
    older_than: Annotated[str, typer.Option("--older-than", metavar="AGE", help="As 12h, 90d or 8w.")],
    films: Annotated[bool, typer.Option("--films", help="Kept films, but those with a verdict: these teach.")] = False,
    judged: Annotated[bool, typer.Option("--judged", help="With --films, those with a verdict too.")] = False,
    events: Annotated[bool, typer.Option("--events", help="What happened to each scan.")] = False,
    audit: Annotated[bool, typer.Option("--audit", help="Who did what.")] = False,
    dry_run: DryRun = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Remove what is old: kept films, events, audit rows. Safe beside everything that runs.

    Scans, results and verdicts stay, so the ledger stays closed; an inbox is never touched.
    """
    from db import audit as audit_log
    from db import retention
    from pneumowatch import durations, settings
    from pneumowatch.cli.output import console, print_json

    if not films and not events and not audit:
        raise typer.BadParameter("say what: --films, --events, --audit.")
    try:
        before = datetime.now(UTC) - durations.parse_duration(older_than)
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(f"{error}.", param_hint="--older-than") from None
    database, config = open_database(data), settings.load_settings(data_dir=data)
    report: dict[str, Any] = {"before": before, "dry_run": dry_run}
    if films:
        report["films"] = asdict(retention.purge_images(database, config.data_dir, before, judged, dry_run))
    if events:
        report["events"] = retention.purge_events(database, before, dry_run)
    if audit:
        report["audit"] = retention.purge_audit(database, before, dry_run)
    if not dry_run:
        what = " ".join(name for name in ("films", "events", "audit") if name in report)
        database.write(
            lambda c: audit_log.record_action(
                c, ACTOR, audit_log.AuditAction.PURGE, detail=f"{what} older than {older_than}"
            )
        )
    if json:
        return print_json(report)
    would = "would go" if dry_run else "are gone"
    if films:
        found = report["films"]
        console.print(f"{found['removed']} kept films {would} ({found['bytes']:,} bytes).", highlight=False)
        if found["judged"]:
            console.print(f"{found['judged']} stay for their verdicts, which teach; --judged takes them too.")
    for name in ("events", "audit"):
        if name in report:
            console.print(f"{report[name]} rows of {name} {would}.")
    return None


def erase(
    scan_ids: Annotated[
        list[int] | None, typer.Argument(max=LARGEST_ID, help="Films, by the ids of their scans.")
    ] = None,
    patient_key: Annotated[
        str | None, typer.Option(help="All of a patient, by the key that their rows bear (64 hexadecimal digits).")
    ] = None,
    ask: Annotated[
        bool, typer.Option("--ask", help="All of a patient, by the patient ID, which is asked for and not shown.")
    ] = False,
    dry_run: DryRun = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether you are sure.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Erase what is known of a patient, or of films: for good.

    Kept films, uploads, predictions, verdicts and comments go, and so does what the header and the path said. For each
    file a tombstone stays, so that the ledger stays closed and nothing is announced anew, and a row in the audit.
    Not erased, as it cannot be: the files in your inboxes (remove them first), backups, what was sent to a PACS, and
    what a model has learned. docs/security.md has it all.
    """
    from db import erasure
    from pneumowatch import settings
    from pneumowatch.cli.output import console, print_json

    if not scan_ids and patient_key is None and not ask:
        raise typer.BadParameter("say whose: scan ids, --patient-key KEY, or --ask.")
    if json and not (yes or dry_run):
        raise typer.BadParameter("with --json say --yes or --dry-run as well: nobody can be asked.")
    database, config = open_database(data), settings.load_settings(data_dir=data)
    key = _prompt_patient_key(database, config) if ask else patient_key
    found = database.read(lambda c: erasure.find_erasure_scope(c, config, key, scan_ids or ()))
    report = _summary(found) | {"dry_run": dry_run}
    if not json:
        _print_summary(report)
    if not dry_run:
        if not yes:
            typer.confirm("Erase all this for good?", abort=True)
        report["erased"] = erasure.erase_scope(database, found, ACTOR)
    if json:
        return print_json(report)
    if dry_run:
        return console.print("Nothing was erased.")
    console.print(f"Erased scans: {report['erased']}; each has left a tombstone.")
    return console.print(
        "Backups from before still hold them, and models that learned from them go on (docs/security.md)."
    )


def _prompt_patient_key(database: "Database", config: "Settings") -> str:
    """The key of a patient whose ID is asked for: in no command line, so in no history nor list of processes."""
    from db import deployment
    from pneumowatch import patients

    deployment.check_patient_key(database, config)
    secret = patients.read_key(config.patient_key_path)
    patient_id = typer.prompt("Patient ID", hide_input=True)
    issuer = typer.prompt("Its issuer, if the films name one", default="", show_default=False)
    return patients.hash_patient_id(secret, patient_id.strip(), issuer.strip())


def _summary(found: "ErasureScope") -> dict[str, Any]:
    return {
        "scans": list(found.scan_ids),
        "states": found.states,
        "kept_files": len(found.images),
        "uploads": len(found.uploads),
        "predictions": found.predictions,
        "reviews": found.reviews,
        "notices": found.notifications,
    }


def _print_summary(report: dict[str, Any]) -> None:
    from pneumowatch.cli.output import console

    ids = ", ".join(map(str, report["scans"]))
    states = ", ".join(f"{count} {state}" for state, count in report["states"].items())
    console.print(f"{len(report['scans'])} scans ({states}): {ids}", highlight=False)
    console.print(
        f"{report['kept_files']} kept films and maps, {report['uploads']} uploads, "
        f"{report['predictions']} predictions, {report['reviews']} verdicts, {report['notices']} notices.",
        highlight=False,
    )
