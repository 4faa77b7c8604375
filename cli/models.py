"""Commands of the model store: which models there are, which of them serves, and letting another one serve."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cli.options import ACTOR, Data, Json

if TYPE_CHECKING:
    from db.session import Database

model_commands = typer.Typer(
    no_args_is_help=True,
    help="The model store: list models, look at one, let another one serve, go back to the one before.",
)

ReasonOption = Annotated[str, typer.Option(help="Why; it is kept with the change.")]

MODEL_COLUMNS: Final = ("version", "serves", "network", "side", "threshold", "registered_at", "promoted_at")
PROMOTION_COLUMNS: Final = ("at", "version", "previous", "by", "reason")


@model_commands.command("list")
def list_models(data: Data = None, json: Json = False) -> None:
    """List all models that the database knows, the newest first, and which of them serves.

    A model that is trained, brought by an upgrade or added by hand is a challenger until it is promoted.
    """
    from cli.connection import open_database
    from cli.output import console, print_json, print_table
    from db.registry import model_registry

    rows = [_row(model) for model in open_database(data).read(model_registry.registered_models)]
    if json:
        return print_json(rows)
    print_table("Models", rows, MODEL_COLUMNS)
    if not rows:
        console.print("The database knows no model yet; a worker brings the shipped one when it starts.")
    return None


@model_commands.command("show")
def show_model(
    version: Annotated[str | None, typer.Argument(help="Which one (default: the one that serves).")] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Show one model: its card, with the measures that training found, and when it began to serve.

    [bold]--json[/bold] has the whole card.
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
        print_table("When it came and went", changes, PROMOTION_COLUMNS)
    return None


@model_commands.command("promote")
def promote_model(
    version: Annotated[str, typer.Argument(help="The model that is to serve.")],
    reason: ReasonOption = "by hand",
    data: Data = None,
    json: Json = False,
) -> None:
    """Let a model serve. Running workers load it beside the old one and take it within seconds.

    What was classified before keeps its result; [bold]pneumowatch rescore[/bold] reads old films again.
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
    """Go back to the model that served before the one that serves now. Ends with 1 where there was none.

    Repeated, it goes back further; what was left is not come back to.
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
    """Add a trained model to the store, as a challenger: it serves once it is promoted.

    It is loaded here, and must give its own reference outputs.
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
    model_cache.register_local_models(
        database, settings.load_settings(data_dir=data).models, ACTOR
    )  # or the first one added would serve at once
    model_cache.register_folder(database, model, ACTOR)
    row = _row(_find(database, model.version))
    if json:
        return print_json(row)
    state = "serves already" if row["serves"] else f"serves once you say `pneumowatch models promote {model.version}`"
    return console.print(f"{model.version} is in the store; it {state}.", highlight=False, soft_wrap=True)


@model_commands.command("reference")
def write_reference(
    folder: Annotated[Path, typer.Argument(help="The model's folder; its card is written anew, its weights stay.")],
    images: Annotated[Path, typer.Argument(help="The labelled films that it was trained on.")],
    also: Annotated[Path | None, typer.Option(help="The second such folder, where there was one.")] = None,
) -> None:
    """Tell a model's card what it says of its validation patients' films: what drift is measured against.

    `train` does so itself; this is for models of earlier versions. Films are read as they were for the training.
    """
    from cli.output import console
    from pneumowatch import settings
    from trainer.evaluation import drift_reference as references

    told = references.write_reference(folder, images, also, settings.load_settings())
    console.print(f"The card of {folder} has its reference now: {told} films of validation patients.", markup=False)


def _find(database: "Database", version: str | None) -> Any:
    """The model of this version, or the one that serves."""
    from db.registry import model_registry
    from pneumowatch.errors import ModelError

    for model in database.read(model_registry.registered_models):
        if model["champion"] if version is None else model["version"] == version:
            return model
    if version is None:
        raise ModelError("The database knows no model yet; a worker brings the shipped one when it starts.")
    raise ModelError(f"There is no model '{version}' here; `pneumowatch models list` shows which there are.")


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
