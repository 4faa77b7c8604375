"""`models`: list the model store, and promote or roll back models."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cli.options import ACTOR, Data, Json

if TYPE_CHECKING:
    from db.session import Database

model_commands = typer.Typer(
    no_args_is_help=True,
    help="The model store: list and show models, add one, promote one to champion, roll back.",
)

ReasonOption = Annotated[str, typer.Option(help="The reason, recorded with the change.")]

MODEL_COLUMNS: Final = ("version", "serves", "network", "side", "threshold", "registered_at", "promoted_at")
PROMOTION_COLUMNS: Final = ("at", "version", "previous", "by", "reason")


@model_commands.command("list")
def list_models(data: Data = None, json: Json = False) -> None:
    """List all models in the database, the newest first, and which one serves (the champion).

    A new model (from training, an upgrade, or `models add`) is a challenger until it is promoted.
    """
    from cli.connection import open_database
    from cli.output import console, print_json, print_table
    from db.registry import model_registry

    rows = [_row(model) for model in open_database(data).read(model_registry.registered_models)]
    if json:
        return print_json(rows)
    print_table("Models", rows, MODEL_COLUMNS)
    if not rows:
        console.print("The database has no model yet; a worker registers the shipped one when it starts.")
    return None


@model_commands.command("show")
def show_model(
    version: Annotated[str | None, typer.Argument(help="The model's version (default: the champion).")] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Show one model: its figures from training, and when it was promoted or replaced.

    [bold]--json[/bold] prints its whole card.
    """
    from cli.connection import open_database
    from cli.output import console, print_json, print_table
    from db.registry import model_registry

    database = open_database(data)
    model = _find(database, version)
    changes = [dict(one) for one in database.read(model_registry.promotions) if model["version"] in _versions(one)]
    if json:
        return print_json({**_row(model), "card": model["card"], "promotions": changes})
    print_table("Model", [_row(model)], MODEL_COLUMNS)
    console.print(f"SHA-256 of its weights: {model['sha256']}", soft_wrap=True, highlight=False)
    for split, measures in model["card"].get("metrics", {}).items():
        rows = [{"measure": name, **figure} for name, figure in measures.items() if isinstance(figure, dict)]
        print_table(f"On {split.replace('_', ' ')}", rows, ["measure", "value", "low", "high"])
    if changes:
        print_table("Promotions", changes, PROMOTION_COLUMNS)
    return None


@model_commands.command("promote")
def promote_model(
    version: Annotated[str, typer.Argument(help="The version of the model to promote.")],
    reason: ReasonOption = "by hand",
    data: Data = None,
    json: Json = False,
) -> None:
    """Promote a model to champion. Running workers load it and switch to it within seconds.

    Scans that were classified before keep their result; [bold]pneumowatch rescore[/bold] classifies them again.
    """
    from cli.connection import open_database
    from cli.output import console, print_json
    from db.registry import model_registry

    previous = open_database(data).write(lambda c: model_registry.promote_to_champion(c, version, ACTOR, reason))
    if json:
        return print_json({"version": version, "previous": previous})
    if previous == version:
        return console.print(f"{version} serves already.", highlight=False)
    return console.print(f"{version} now serves in place of {previous or 'none'}.", highlight=False)


@model_commands.command("rollback")
def roll_back_model(reason: ReasonOption = "by hand", data: Data = None, json: Json = False) -> None:
    """Roll back to the previous champion. Exits with 1 if there is none.

    Repeated, it goes back further; models that were rolled back are skipped.
    """
    from cli.connection import open_database
    from cli.output import console, print_json
    from db.registry import model_registry

    database = open_database(data)
    left = database.read(model_registry.champion_version)
    version = database.write(lambda c: model_registry.roll_back_champion(c, ACTOR, reason, expected=left))
    if json:
        return print_json({"version": version, "previous": left})
    return console.print(f"{version} serves again in place of {left}.", highlight=False)


@model_commands.command("add")
def add_model(
    folder: Annotated[Path, typer.Argument(help="A model folder, as `pneumowatch train` writes it.")],
    data: Data = None,
    json: Json = False,
) -> None:
    """Add a trained model to the store as a challenger. It serves after `models promote`.

    The model is loaded here, and must reproduce its reference outputs.
    """
    from cli.connection import open_database
    from cli.output import console, print_json
    from db.registry import model_cache
    from pneumowatch import settings
    from pneumowatch.model_folder import ModelFolder
    from worker.inference.classifier import Classifier

    model = ModelFolder.read(folder)
    database = open_database(data)
    Classifier(model, batch_size=1)
    # first the shipped model: in an empty store the first model becomes champion at once
    model_cache.register_local_models(database, settings.load_settings(data_dir=data).models, ACTOR)
    model_cache.register_folder(database, model, ACTOR)
    row = _row(_find(database, model.version))
    if json:
        return print_json(row)
    state = "It serves already." if row["serves"] else f"To let it serve: `pneumowatch models promote {model.version}`."
    return console.print(f"{model.version} is in the store. {state}", highlight=False, soft_wrap=True)


@model_commands.command("reference")
def write_reference(
    folder: Annotated[
        Path, typer.Argument(help="The model's folder; its card is rewritten, its weights do not change.")
    ],
    images: Annotated[Path, typer.Argument(help="The labelled images that it was trained on.")],
    also: Annotated[Path | None, typer.Option(help="The second folder of training images, if there was one.")] = None,
) -> None:
    """Write the drift reference into a model's card: its outputs on the images of validation patients.

    `train` does this itself; the command is for models of earlier versions. Images are read as for training.
    """
    from cli.output import console
    from pneumowatch import settings
    from trainer.evaluation import drift_reference as references

    told = references.write_reference(folder, images, also, settings.load_settings())
    console.print(f"The card of {folder} now has its reference: {told} images of validation patients.", markup=False)


def _find(database: "Database", version: str | None) -> Any:
    """Return the row of this version, or (None) of the champion. Raises ModelError where there is none."""
    from db.registry import model_registry
    from pneumowatch.errors import ModelError

    for model in database.read(model_registry.registered_models):
        if model["champion"] if version is None else model["version"] == version:
            return model
    if version is None:
        raise ModelError("The database has no model yet; a worker registers the shipped one when it starts.")
    raise ModelError(f"There is no model '{version}'; `pneumowatch models list` lists all.")


def _row(model: Any) -> dict[str, Any]:
    card = model["card"]
    return {
        "version": model["version"],
        "serves": model["champion"],
        "network": card.get("network"),
        "side": card["input"]["side"],
        "threshold": card["threshold"]["value"],
        "registered_at": model["registered_at"],
        "promoted_at": model["promoted_at"],
        "sha256": model["sha256"],
        "archive_bytes": model["archive_bytes"],
    }


def _versions(change: Any) -> tuple[str, str | None]:
    return change["version"], change["previous"]
