"""`train`: train a model on a folder of labelled images."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cli.evaluate import PatientPattern, valid_pattern
from pneumowatch.errors import TrainingError
from pneumowatch.model_folder import ModelFolder
from trainer.hyperparameters import PRECISIONS, PRESETS, Hyperparameters, distilled, finishing_distillation

if TYPE_CHECKING:
    from trainer.train import TrainingProgress, TrainingResult

TABLE_TITLES: Final = {"test": "Test patients", "test_full_size": "Test patients, full-size images"}


def train(
    data: Annotated[Path, typer.Argument(help="Labelled images, in sub-folders NORMAL and PNEUMONIA.")],
    out: Annotated[Path, typer.Argument(help="Folder in which the model's folder, named by its version, is created.")],
    network: Annotated[str, typer.Option(help=f"The network: {', '.join(PRESETS)}.")] = "compact",
    epochs: Annotated[int | None, typer.Option(min=1, help="Number of epochs (default: the network's own).")] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Batches per epoch (default: the network's own).")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of weights, shuffling and augmentation.")
    ] = Hyperparameters.seed,
    also: Annotated[
        Path | None,
        typer.Option(
            help="A second folder, of full-size images: used for training too, and evaluated on its test patients."
        ),
    ] = None,
    teacher: Annotated[
        list[Path] | None,
        typer.Option(help="Distillation: a model folder whose outputs replace the labels; several are averaged."),
    ] = None,
    start: Annotated[
        Path | None, typer.Option(help="Distilled model folder to fine-tune: low learning rate, weak augmentation.")
    ] = None,
    about: Annotated[
        Path | None, typer.Option(help="JSON file with source, terms of use and limits of the images, for the card.")
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(min=0, help="Stop after this many epochs without a gain on validation patients; 0: never."),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help=f"Numeric precision: {', '.join(PRECISIONS)} (default: the network's own).")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write an HTML report on the images of test patients, as `evaluate` does.")
    ] = None,
    patient_pattern: PatientPattern = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Train a model on labelled images, and measure it on patients it never saw.

    The patient is read from the DICOM header or the file name (person63_bacteria_306.jpeg is person63,
    IM-0115-0001.jpeg is IM-0115, others as [bold]--patient-pattern[/bold] says; any other name counts as a patient of
    its own) and decides the split: a tenth of the patients for the test, a tenth for validation, which chooses the
    threshold, the rest for training. No patient is in two splits, nor changes the split when images are added. With the
    defaults and two CPU cores it takes about half an hour.

    After an interruption, the same command continues after the last complete epoch. [bold]--precision
    mixed_bfloat16[/bold] trains the notebook's convolutions twice as fast on processors with avx512_bf16 or amx_bf16.

    Try the model with [bold]pneumowatch classify --model OUT/VERSION FILE...[/bold]; its card.json holds all figures,
    training.html shows the epochs.
    """
    from pneumowatch import settings
    from trainer import train as training
    from trainer.dataset import PatientIdRule

    if network not in PRESETS:
        raise TrainingError(f"There is no network {network!r}; use one of: {', '.join(PRESETS)}.")
    teachers = [ModelFolder.read(folder) for folder in teacher or ()]
    start_model = ModelFolder.read(start) if start else None
    if start_model and not teachers:
        raise TrainingError("--start requires --teacher.")
    preset = distilled(PRESETS[network], [folder.version for folder in teachers]) if teachers else PRESETS[network]
    preset = finishing_distillation(preset, start_model.version) if start_model else preset
    hyperparameters = replace(
        preset,
        seed=seed,
        epochs=epochs or preset.epochs,
        steps_per_epoch=steps or preset.steps_per_epoch,
        patience=preset.patience if patience is None else patience,
        precision=precision or preset.precision,
    )
    patient_rule = PatientIdRule.from_settings(settings.load_settings(), valid_pattern(patient_pattern or ""))
    with _progress_bar(hyperparameters) as watch:
        trained = training.train_model(
            data, out, hyperparameters, also, about, watch, teachers, start_model, patient_rule
        )
    _print_result(trained, _write_report(trained, data, report) if report else None, json)


def _write_report(trained: "TrainingResult", data: Path, target: Path) -> Path | None:
    """Write the report and return its path; None where there is no image of a test patient."""
    from trainer import networks, student
    from trainer.evaluation import model_evaluation
    from trainer.evaluation.reports import write_evaluation

    if not trained.dataset.in_split("test"):
        return None
    model = networks.load_inference_model(trained.folder)

    def predict(images: Any) -> Any:
        return student.predict_probabilities(model, images[..., None])

    return write_evaluation(
        target, [model_evaluation.evaluate_model(trained.folder, trained.dataset, data, "test", predict)]
    )


@contextmanager
def _progress_bar(hyperparameters: Hyperparameters) -> Iterator[Callable[["TrainingProgress"], None]]:
    """Show a progress bar on standard error, so that --json stays clean."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from cli.output import error_console

    shown = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), TextColumn("{task.fields[figures]}"))
    with Progress(*shown, console=error_console) as bar:
        task = bar.add_task(
            "reading images", total=hyperparameters.epochs * hyperparameters.steps_per_epoch, figures=""
        )

        def watch(at: "TrainingProgress") -> None:
            if at.note:
                return bar.console.print(at.note)
            figures = f"loss {at.loss:.3f}"
            if not isnan(at.validation_loss):
                figures += f", validation {at.validation_loss:.3f}, accuracy {at.validation_accuracy:.3f}"
            done = (at.epoch - 1) * hyperparameters.steps_per_epoch + at.step
            bar.update(
                task, completed=done, description=f"epoch {at.epoch} of {hyperparameters.epochs}", figures=figures
            )
            return None

        yield watch


def _print_result(trained: "TrainingResult", page: Path | None, json: bool) -> None:
    from cli.output import console, print_json, print_table

    folder = trained.folder
    if json:
        left_out = [{"path": str(one.path), "reason": one.reason} for one in trained.left_out]
        card_fields = {key: folder.card[key] for key in ("version", "threshold", "data", "metrics")}
        report_json = {"path": str(folder.path), "report": str(page) if page else None}
        return print_json(report_json | card_fields | {"left_out": left_out})
    for split, title in TABLE_TITLES.items():
        if split in folder.card["metrics"]:
            print_table(title, _rows(folder, split), ["measure", "value", "low", "high"])
    if trained.left_out:
        console.print(f"{len(trained.left_out)} files could not be read and were left out; --json lists them.")
    console.print(f"Flags at {folder.threshold:.3f} and above. {folder.card['threshold']['chosen']}")
    if page:
        console.print(f"The report is in {page}", soft_wrap=True, markup=False, highlight=False)
    return console.print(f"The model is in {folder.path}", soft_wrap=True, markup=False, highlight=False)


def _rows(folder: ModelFolder, split: str) -> list[dict[str, Any]]:
    return [{"measure": name, **figure} for name, figure in folder.card["metrics"][split].items()]
