"""`rescore`: classify old scans again with another model."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cli.options import ACTOR, Data, Json


def rescore(
    model: Annotated[str | None, typer.Option(help="A version in the model store (default: the champion).")] = None,
    make_current: Annotated[
        bool, typer.Option("--make-current", help="Show this model's results for the scans from now on.")
    ] = False,
    inbox: Annotated[Path | None, typer.Option(help="The inbox of `up --inbox` (default: as configured).")] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Classify old scans again with another model. Earlier predictions are kept.

    Uses the stored images (PNEUMOWATCH_KEEP_IMAGES), else the original files if they are unchanged, and reports how
    many scans had neither. Safe to stop and to repeat: scans with a prediction of this model are skipped. Without
    [bold]--make-current[/bold] the new predictions are only stored, and the SQL views do not change.
    """
    from cli.connection import open_database
    from cli.output import console, print_json, progress_bar
    from db.registry import model_cache
    from pneumowatch import inboxes, settings
    from worker.inference.serving import load_served_model
    from worker.rescoring import Rescorer

    config = settings.load_settings(data_dir=data)
    database = open_database(data)
    folder = model_cache.fetch_model(database, config.models, model)
    serving = load_served_model(folder, config)
    rescorer = Rescorer(database, config, inboxes.configured(config, inbox), serving, ACTOR)
    try:
        with progress_bar(f"rescoring with {folder.version}") as on_progress:
            counts = rescorer.run(make_current, on_progress)
    finally:
        rescorer.close()
        serving.close()
    if json:
        return print_json({"model": folder.version, **asdict(counts)})
    console.print(f"{folder.version}: {counts.rescored} scans rescored; {counts.already} had its prediction already.")
    if counts.not_chest_xray:
        console.print(f"{counts.not_chest_xray} scans are rejected by its input gate; they keep their result.")
    if counts.left_out:
        console.print(f"{counts.left_out} scans were left out: no stored image of this model's size, and no file.")
    if make_current:
        console.print(f"{counts.made_current} scans now show its result.")
    return None
