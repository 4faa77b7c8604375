"""Declare the options that several commands share."""

from pathlib import Path
from typing import Annotated, Final

import typer

from db import LARGEST_ID

Data = Annotated[
    Path | None, typer.Option("--data", help="The data folder (default: PNEUMOWATCH_DATA_DIR, or ./data).")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=LARGEST_ID, help="Show at most this many rows.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only report what would be removed.")]
ACTOR: Final = "command line"
