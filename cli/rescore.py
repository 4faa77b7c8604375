"""The command that reads old scans again: `rescore`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cli.options import ACTOR, Data, Json


def rescore(
    model: Annotated[
        str | None, typer.Option(help="A version in the model store (default: the one that serves).")
    ] = None,
    make_current: Annotated[
        bool, typer.Option("--make-current", help="Let the scans show this model's result from now on.")
    ] = False,
    inbox: Annotated[Path | None, typer.Option(help="The inbox of `up --inbox` (default: as configured).")] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Read classified films again with another model. No earlier prediction is lost.

    From the films that were kept (PNEUMOWATCH_KEEP_IMAGES), else from the files where they still stand unchanged; how
    many could not be had is said. Safe to stop and to repeat: a film that the model has read is not read again. Without
    [bold]--make-current[/bold] the predictions stand beside the others, and the views show what they showed.
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
        with progress_bar(f"reading with {folder.version}") as on_progress:
            counts = rescorer.run(make_current, on_progress)
    finally:
        rescorer.close()
        serving.close()
    if json:
        return print_json({"model": folder.version, **asdict(counts)})
    console.print(f"{folder.version} read {counts.rescored} films again; {counts.already} it had read before.")
    if counts.not_chest_xray:
        console.print(f"{counts.not_chest_xray} it takes for something else than a chest film; they keep their result.")
    if counts.left_out:
        console.print(f"{counts.left_out} were left out: neither kept in this model's size, nor still in their folder.")
    if make_current:
        console.print(f"{counts.made_current} scans now show its result.")
    return None
