"""`verdict`: record readers' verdicts from the command line or from a CSV file."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cli.options import Data, Json
from db import LARGEST_ID
from pneumowatch.errors import ReviewRefused

if TYPE_CHECKING:
    from db.session import Database
    from pneumowatch.settings import Settings

MAX_ID_DIGITS: Final = len(str(LARGEST_ID))
CSV_COLUMNS: Final = ("scan_id", "verdict", "reviewer")  # required columns of a file; `comment` is optional


@dataclass(frozen=True)
class VerdictEntry:
    scan_id: int
    verdict: str
    reviewer: str
    comment: str | None = None


def verdict(
    scan_id: Annotated[int | None, typer.Argument(max=LARGEST_ID, help="The scan's id (see `flagged`).")] = None,
    value: Annotated[
        str | None, typer.Argument(metavar="VERDICT", help="pneumonia, no_pneumonia, unsure or unusable.")
    ] = None,
    reviewer: Annotated[str | None, typer.Option(help="Name of the reader.")] = None,
    comment: Annotated[str | None, typer.Option(help="A comment, stored with the verdict.")] = None,
    file: Annotated[
        Path | None, typer.Option("--from", help="A CSV file of verdicts: scan_id,verdict,reviewer[,comment].")
    ] = None,
    inbox: Annotated[Path | None, typer.Option(help="The inbox of `up --inbox` (default: as configured).")] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Record a reader's verdict on a scan: pneumonia, no_pneumonia, unsure or unusable.

    Every verdict is kept, with the prediction that the reader saw; the SQL views show the newest. The first two are
    training labels ([bold]pneumowatch retrain[/bold]), unless readers disagree. The image of a reviewed scan is stored
    in the data folder, so that the inbox may be emptied.

    With [bold]--from FILE[/bold] all verdicts of the file are recorded, or none if one is refused.
    """
    if file is not None:
        if scan_id is not None or value is not None:
            raise typer.BadParameter("give either SCAN_ID and VERDICT, or --from FILE.")
        entries = list(_read_csv(file, reviewer))
    elif scan_id is None or value is None or not reviewer:
        raise typer.BadParameter("give SCAN_ID, VERDICT and --reviewer NAME, or --from FILE.")
    else:
        entries = [VerdictEntry(scan_id, _valid_verdict(value), reviewer, comment)]
    _record(entries, data, inbox, json)


def _valid_verdict(value: str) -> str:
    from db.states import Verdict

    if value not in set(Verdict):
        raise typer.BadParameter(f"'{value}' is not a verdict; use one of: {', '.join(Verdict)}.")
    return value


def _read_csv(file: Path, reviewer: str | None) -> Iterator[VerdictEntry]:
    """Yield the verdicts of a CSV file. Raises BadParameter, with the line number, where a line cannot be used."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            rows = csv.DictReader(lines)
            for row in rows:
                yield _parse_row(
                    {key: (value or "").strip() for key, value in row.items() if key}, rows.line_num, reviewer
                )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise typer.BadParameter(f"the file cannot be read ({type(error).__name__}).", param_hint="--from") from None


def _parse_row(row: dict[str, str], line: int, reviewer: str | None) -> VerdictEntry:
    name = row.get("reviewer") or reviewer
    if not row.get("scan_id", "").isdecimal() or not row.get("verdict") or not name:
        raise typer.BadParameter(f"line {line} does not hold {', '.join(CSV_COLUMNS)}.", param_hint="--from")
    digits = row["scan_id"].lstrip("0") or "0"
    if len(digits) > MAX_ID_DIGITS or (scan_id := int(digits)) > LARGEST_ID:
        raise typer.BadParameter(f"line {line} has a scan_id that is too large.", param_hint="--from")
    return VerdictEntry(scan_id, _valid_verdict(row["verdict"]), name, row.get("comment") or None)


def _record(entries: list[VerdictEntry], data: Path | None, inbox: Path | None, json: bool) -> None:
    from sqlalchemy import Connection

    from cli.connection import open_database
    from cli.output import console, print_json
    from db.states import Verdict
    from db.worklist import verdicts
    from pneumowatch import settings

    database = open_database(data)

    def record(connection: Connection) -> list[int]:
        return [
            verdicts.record_verdict(connection, one.scan_id, Verdict(one.verdict), one.reviewer, one.comment)
            for one in entries
        ]

    ids = database.write(record)
    kept = _keep_images(database, settings.load_settings(data_dir=data), inbox, {one.scan_id for one in entries})
    rows: list[dict[str, Any]] = [
        {"review_id": review, "scan_id": one.scan_id, "verdict": one.verdict, "image_kept": kept[one.scan_id]}
        for review, one in zip(ids, entries, strict=True)
    ]
    if json:
        return print_json(rows)
    console.print(f"{len(rows)} verdicts recorded.")
    lost = sum(not of for of in kept.values())
    if lost:
        console.print(f"{lost} of these images are not stored and can no longer be read: training cannot use them.")
    return None


def _keep_images(database: "Database", config: "Settings", inbox: Path | None, scan_ids: set[int]) -> dict[int, bool]:
    """Store the images of reviewed scans. Returns {scan id: whether its image is stored now}."""
    from db.ledger import queries
    from db.registry import model_registry
    from pneumowatch import inboxes
    from pneumowatch.model_folder import shipped_folder
    from worker import keep_reviewed

    side = database.read(model_registry.champion_input_side) or shipped_folder().side
    folders = inboxes.configured(config, inbox)
    kept = dict.fromkeys(sorted(scan_ids), False)
    try:
        for scan_id in kept:
            places = database.read(partial(queries.file_locations, scan_id=scan_id))
            kept[scan_id] = keep_reviewed.keep_reviewed_image(config, folders, places, side)
        return kept
    except OSError as error:
        raise ReviewRefused(
            f"The verdicts are recorded, but their images cannot be stored in {config.data_dir}: {error.strerror}."
        ) from None
