"""`erase`: remove all data of a patient, or of single scans."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.connection import open_database
from cli.options import ACTOR, Data, DryRun, Json
from db import LARGEST_ID

if TYPE_CHECKING:
    from db.maintenance.erasure import ErasureScope
    from db.session import Database
    from pneumowatch.settings import Settings


def erase(
    scan_ids: Annotated[list[int] | None, typer.Argument(max=LARGEST_ID, help="Ids of the scans to erase.")] = None,
    patient_key: Annotated[
        str | None,
        typer.Option(help="All scans of a patient, by the patient key of their rows (64 hexadecimal digits)."),
    ] = None,
    ask: Annotated[
        bool,
        typer.Option("--ask", help="All scans of a patient, by the patient ID, which is prompted for and not shown."),
    ] = False,
    dry_run: DryRun = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Erase all data of a patient, or of single scans, for good.

    Stored images, uploads, predictions, verdicts and comments are removed, and the values taken from header and path.
    For each file a tombstone stays, so that the ledger stays closed and the file is not registered again, and a row in
    the audit log. Not erased, because it cannot be: the files in your inboxes (remove them first), backups, what was
    sent to a PACS, and what a model has learned. See docs/operate/security.md.
    """
    from cli.output import console, print_json
    from db.maintenance import erasure
    from pneumowatch import settings

    if not scan_ids and patient_key is None and not ask:
        raise typer.BadParameter("say which scans: ids, --patient-key KEY, or --ask.")
    if json and not (yes or dry_run):
        raise typer.BadParameter("with --json use --yes or --dry-run as well: no confirmation can be asked for.")
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
    console.print(f"Erased scans: {report['erased']}; a tombstone of each stays.")
    return console.print(
        "Earlier backups still hold them, and models that learned from them stay (docs/operate/security.md)."
    )


def _prompt_patient_key(database: "Database", config: "Settings") -> str:
    """Prompt for a patient ID and return its key. A prompt keeps the ID out of shell history and process lists."""
    from db import deployment
    from pneumowatch import patient_hashing

    deployment.check_patient_key(database, config)
    secret = patient_hashing.read_key(config.patient_key_path)
    patient_id = typer.prompt("Patient ID", hide_input=True)
    issuer = typer.prompt("Issuer of patient ID, if the images name one", default="", show_default=False)
    return patient_hashing.hash_patient_id(secret, patient_id.strip(), issuer.strip())


def _summary(found: "ErasureScope") -> dict[str, Any]:
    return {
        "scans": list(found.scan_ids),
        "states": found.states,
        "kept_files": len(found.images),
        "uploads": len(found.uploads),
        "predictions": found.predictions,
        "reviews": found.reviews,
        "notifications": found.notifications,
    }


def _print_summary(report: dict[str, Any]) -> None:
    from cli.output import console

    ids = ", ".join(map(str, report["scans"]))
    states = ", ".join(f"{count} {state}" for state, count in report["states"].items())
    console.print(f"{len(report['scans'])} scans ({states}): {ids}", highlight=False)
    console.print(
        f"{report['kept_files']} stored images and maps, {report['uploads']} uploads, "
        f"{report['predictions']} predictions, {report['reviews']} verdicts, {report['notifications']} notifications.",
        highlight=False,
    )
