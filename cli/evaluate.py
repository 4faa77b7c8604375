"""Commands about labelled images: measure a model on them (`evaluate`), and describe them (`survey`)."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cli.options import Json
from pneumowatch.errors import SettingsError

if TYPE_CHECKING:
    from pneumowatch.model_folder import ModelFolder
    from pneumowatch.settings import Settings
    from trainer.dataset import Dataset, PatientIdRule
    from trainer.evaluation.model_evaluation import ModelEvaluation

SPLIT_CHOICES: Final = ("test", "validation", "train", "all")
MAX_LISTED: Final = 10  # misclassified images in the table; the report and --json list all

ReportOption = Annotated[
    Path | None, typer.Option("--report", help="Write an HTML report: a file, or a folder to put it in.")
]
PatientPattern = Annotated[
    str | None,
    typer.Option(
        "--patient-pattern",
        help="Regular expression for the patient in a file name: its first group, or the whole match.",
    ),
]


def evaluate(
    data: Annotated[Path, typer.Option("--data", help="Labelled images, in sub-folders NORMAL and PNEUMONIA.")],
    model: Annotated[
        str | None, typer.Option(help="A version in the model store, or a model folder (default: the champion).")
    ] = None,
    split: Annotated[str, typer.Option(help="Which patients: test, validation, train or all.")] = "test",
    against: Annotated[
        str | None, typer.Option(help="A second model, named like --model, to compare on the same images.")
    ] = None,
    report: ReportOption = None,
    patient_pattern: PatientPattern = None,
    json: Json = False,
) -> None:
    """Measure a model on labelled images, at its own threshold, with 95 % confidence intervals by patient.

    By default only images of test patients count, which training never saw. The patient is read from the file name (or
    the DICOM header) and decides the split, whatever folders the dataset came in. For images of patients that were not
    trained on at all, use [bold]--split all[/bold].

    [bold]--against[/bold] prints the differences to a second model on the same images. [bold]--report[/bold] writes one
    page with figures and the misclassified images; it shows images and file names, so protect it like them. A measure
    that cannot be computed (specificity without normal images) is left empty, null in JSON. Exits with 1 if the images
    or a model cannot be used.
    """
    from pneumowatch import settings
    from trainer.dataset import PatientIdRule
    from trainer.evaluation import model_evaluation

    if split not in SPLIT_CHOICES:
        raise typer.BadParameter(
            f"'{split}' is not a split; use one of: {', '.join(SPLIT_CHOICES)}.", param_hint="--split"
        )
    config = settings.load_settings()
    folders = [_model(name, config) for name in ((model, against) if against else (model,))]
    if patient_pattern is not None:
        patient_rule = PatientIdRule.from_settings(config, valid_pattern(patient_pattern))
    else:
        patient_rule = PatientIdRule.from_card(folders[0].card, config)
    images = {side: read_dataset(data, side, patient_rule) for side in {folder.side for folder in folders}}
    found = [
        model_evaluation.evaluate_model(folder, images[folder.side], data, split, _predictor(folder, config))
        for folder in folders
    ]
    if report:
        from trainer.evaluation.reports import write_evaluation

        report = write_evaluation(report, found)
    _print_evaluations(found, report, json)


def survey(
    data: Annotated[Path, typer.Argument(help="Labelled images, in sub-folders NORMAL and PNEUMONIA.")],
    report: ReportOption = None,
    patient_pattern: PatientPattern = None,
    json: Json = False,
) -> None:
    """Describe a labelled dataset: classes, patients, splits, sizes, gray values, duplicates.

    Run it before training: it shows a patient in two classes, or an image under two names. Duplicate images, identical
    or re-encoded and resized, are never in two splits.
    """
    from cli.output import console, print_json, print_table
    from pneumowatch import settings
    from trainer import survey as dataset_survey
    from trainer.dataset import PatientIdRule

    patient_rule = PatientIdRule.from_settings(settings.load_settings(), valid_pattern(patient_pattern or ""))
    images = read_dataset(data, dataset_survey.SURVEY_SIDE, patient_rule)
    facts = dataset_survey.survey_dataset(images)
    if report:
        from trainer.evaluation.reports import write_survey

        report = write_survey(report, facts)
    if json:
        return print_json(facts | {"report": str(report) if report else None})
    print_table("Images and patients by split", dataset_survey.split_rows(facts), dataset_survey.SPLIT_COLUMNS)
    print_table("Properties of the images", dataset_survey.range_rows(facts), dataset_survey.RANGE_COLUMNS)
    for sentence in facts["sentences"]:
        console.print(sentence, highlight=False)
    return _print_report_path(report)


def read_dataset(data: Path, side: int, patient_rule: "PatientIdRule") -> "Dataset":
    """Read a labelled dataset with a progress bar. One class is enough."""
    from cli.output import progress_bar
    from trainer import dataset

    with progress_bar("reading images") as watch:
        return dataset.read_dataset(data, side, patient_rule, require_both_classes=False, on_progress=watch)


def _model(name: str | None, config: "Settings") -> "ModelFolder":
    """Find a model: a model folder, a version in the model store, or (None) the champion.

    A version without a copy on this machine is fetched from the database, if there is one.
    """
    from cli.connection import open_database
    from db.registry import model_cache
    from pneumowatch.model_folder import CARD, ModelFolder, champion_folder, shipped_folder

    if name is None:
        return champion_folder(config.models)
    if (Path(name) / CARD).exists() or "/" in name:
        return ModelFolder.read(Path(name))
    if name == shipped_folder().version:
        return shipped_folder()
    if (config.models / name / CARD).exists():
        return ModelFolder.read(config.models / name)
    if config.database_url or (config.data_dir / "pneumowatch.db").exists():
        return model_cache.fetch_model(open_database(config.data_dir), config.models, name)
    raise SettingsError(f"There is no model '{name}': neither a folder with a {CARD} nor a version in the model store.")


def _predictor(folder: "ModelFolder", config: "Settings") -> Callable[[Any], Any]:
    """Return a function from images, uint8 (n, side, side), to probabilities, float32 (n,): the worker's classifier."""
    import numpy as np

    from cli.output import progress_bar
    from worker.inference.classifier import Classifier

    classifier = Classifier(folder, config.batch_size)

    def predict(images: Any) -> Any:
        said = [np.zeros(0, np.float32)]
        with progress_bar(f"classifying with {folder.version}") as watch:
            for start in range(0, len(images), config.batch_size):
                said.append(classifier.predict(images[start : start + config.batch_size]).probability)
                watch(min(start + config.batch_size, len(images)), len(images))
        return np.concatenate(said)

    return predict


def valid_pattern(pattern: str) -> str:
    """Return the pattern. Raises BadParameter where it is not a regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise typer.BadParameter(f"not a regular expression: {error}.", param_hint="--patient-pattern") from None
    return pattern


def _print_evaluations(found: "list[ModelEvaluation]", report: Path | None, json: bool) -> None:
    from cli.output import console, print_json, print_table
    from trainer.evaluation import model_evaluation

    differences = model_evaluation.compare_evaluations(*found) if len(found) > 1 else None
    if json:
        report_json = found[0].as_dict() | {"against": None, "report": str(report) if report else None}
        if differences:
            report_json["against"] = found[1].as_dict() | {"differences": differences}
        return print_json(report_json)
    for one in found:
        console.print(one.summary, highlight=False, markup=False)
        print_table(f"Model {one.version}", _rows(one.as_dict()["measures"]), ["measure", "value", "low", "high"])
        for sentence in one.notes:
            console.print(sentence, highlight=False)
    if differences:
        title = f"{found[0].version} minus {found[1].version}"
        print_table(title, _rows(differences), ["measure", "value", "low", "high"])
    wrong = [
        {"path": image.name, "label": image.label_name, "probability": image.probability}
        for image in found[0].misclassified
    ]
    if wrong:
        title = f"Misclassified: {len(wrong)}" + (f", the worst {MAX_LISTED}" if len(wrong) > MAX_LISTED else "")
        print_table(title, wrong[:MAX_LISTED], ["path", "label", "probability"])
    return _print_report_path(report)


def _rows(measures: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"measure": name.replace("_", " "), **figure} for name, figure in measures.items()]


def _print_report_path(report: Path | None) -> None:
    from cli.output import console

    if report:
        console.print(f"The report is in {report}", soft_wrap=True, markup=False, highlight=False)
