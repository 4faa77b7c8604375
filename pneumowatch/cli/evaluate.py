"""Commands about labelled films: how well a model reads them (`evaluate`), and what they are (`survey`)."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from pneumowatch.errors import SettingsError

if TYPE_CHECKING:
    from pneumowatch.model import ModelFolder
    from pneumowatch.settings import Settings
    from trainer.assessment import Assessment
    from trainer.dataset import Dataset, Naming

SPLITS: Final = ("test", "validation", "train", "all")
SHOWN: Final = 10  # wrongly read films in the table; the report and --json have them all

Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Report = Annotated[
    Path | None, typer.Option("--report", help="Write an HTML page here: a file, or a folder to put it in.")
]
Pattern = Annotated[
    str | None,
    typer.Option(
        "--patient-pattern",
        help="Regular expression that finds the patient in a file name: its first group, or all it matches.",
    ),
]


def evaluate(
    data: Annotated[Path, typer.Option("--data", help="Labelled films, in sub-folders NORMAL and PNEUMONIA.")],
    model: Annotated[
        str | None, typer.Option(help="A version in the model store, or a model folder (default: the one that serves).")
    ] = None,
    split: Annotated[str, typer.Option(help="Of which patients: test, validation, train or all.")] = "test",
    against: Annotated[
        str | None, typer.Option(help="A second model to compare with on the same films, named as --model.")
    ] = None,
    report: Report = None,
    patient_pattern: Pattern = None,
    json: Json = False,
) -> None:
    """Measure how well a model reads labelled films, at its own threshold, with 95 % intervals by patient.

    By default on the films of test patients, which training never saw: the patient is read from the file name (or the
    DICOM header) and decides the split, whatever folders the set came in. For films of which no patient was trained on,
    say [bold]--split all[/bold].

    [bold]--against[/bold] tells what one model is above another on the same films. [bold]--report[/bold] writes one
    page with figures and the films that were read wrongly: it shows films and names their files, so keep it as you keep
    them. A measure that the films cannot tell (specificity without normal films) is left empty, null in JSON. Ends with
    1 where the films or a model cannot be used.
    """
    from pneumowatch import settings
    from trainer import assessment
    from trainer.dataset import Naming

    if split not in SPLITS:
        raise typer.BadParameter(f"'{split}' is no split; there are: {', '.join(SPLITS)}.", param_hint="--split")
    given = settings.load()
    folders = [_model(name, given) for name in ((model, against) if against else (model,))]
    if patient_pattern is not None:
        naming = Naming.here(given, checked(patient_pattern))
    else:
        naming = Naming.of_card(folders[0].card, given)
    films = {side: read_films(data, side, naming) for side in {folder.side for folder in folders}}
    found = [
        assessment.assess(folder, films[folder.side], data, split, _predictor(folder, given)) for folder in folders
    ]
    if report:
        from trainer.report import write_evaluation

        report = write_evaluation(report, found)
    _print_assessments(found, report, json)


def survey(
    data: Annotated[Path, typer.Argument(help="Labelled films, in sub-folders NORMAL and PNEUMONIA.")],
    report: Report = None,
    patient_pattern: Pattern = None,
    json: Json = False,
) -> None:
    """Tell what a set of labelled films holds: classes, patients, splits, sizes, gray values, duplicates.

    Look here before training: a patient in two classes, or a picture under two names, is seen at once. Films that are
    the same picture, byte for byte or encoded and resized anew, never stand in two splits.
    """
    from pneumowatch import settings
    from pneumowatch.cli.output import console, print_json, print_table
    from trainer import survey as surveying
    from trainer.dataset import Naming

    naming = Naming.here(settings.load(), checked(patient_pattern or ""))
    films = read_films(data, surveying.SIDE, naming)
    facts = surveying.survey(films)
    if report:
        from trainer.report import write_survey

        report = write_survey(report, facts)
    if json:
        return print_json(facts | {"report": str(report) if report else None})
    print_table("Films and patients by split", surveying.split_rows(facts), surveying.SPLIT_COLUMNS)
    print_table("What the films are like", surveying.range_rows(facts), surveying.RANGE_COLUMNS)
    for sentence in facts["sentences"]:
        console.print(sentence, highlight=False)
    return _say_where(report)


def read_films(data: Path, side: int, naming: "Naming") -> "Dataset":
    from pneumowatch.cli.output import progress_bar
    from trainer import dataset

    with progress_bar("reading films") as watch:
        return dataset.read(data, side, naming, both=False, watch=watch)


def _model(name: str | None, given: "Settings") -> "ModelFolder":
    """A model folder, a version in the model store, or the champion. What this machine has no copy of is fetched from
    the database, where there is one."""
    from db import cache
    from pneumowatch.cli.query import open_database
    from pneumowatch.model import CARD, ModelFolder, champion, shipped

    if name is None:
        return champion(given.models)
    if (Path(name) / CARD).exists() or "/" in name:
        return ModelFolder.read(Path(name))
    if name == shipped().version:
        return shipped()
    if (given.models / name / CARD).exists():
        return ModelFolder.read(given.models / name)
    if given.database_url or (given.data_dir / "pneumowatch.db").exists():
        return cache.fetch(open_database(given.data_dir), given.models, name)
    raise SettingsError(f"There is no model '{name}': neither a folder with a {CARD} nor a version in the model store.")


def _predictor(folder: "ModelFolder", given: "Settings") -> Callable[[Any], Any]:
    """The very classifier that serves; uint8 (n, side, side) to float32 (n,)."""
    import numpy as np

    from pneumowatch.cli.output import progress_bar
    from worker.classifier import Classifier

    classifier = Classifier(folder, given.batch_size)

    def predict(films: Any) -> Any:
        said = [np.zeros(0, np.float32)]
        with progress_bar(f"classifying with {folder.version}") as watch:
            for start in range(0, len(films), given.batch_size):
                said.append(classifier.predict(films[start : start + given.batch_size]).probability)
                watch(min(start + given.batch_size, len(films)), len(films))
        return np.concatenate(said)

    return predict


def checked(pattern: str) -> str:
    """Raises BadParameter where it is no regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise typer.BadParameter(f"it is no regular expression: {error}.", param_hint="--patient-pattern") from None
    return pattern


def _print_assessments(found: "list[Assessment]", report: Path | None, json: bool) -> None:
    from pneumowatch.cli.output import console, print_json, print_table
    from trainer import assessment

    differences = assessment.compare(*found) if len(found) > 1 else None
    if json:
        told = found[0].plain() | {"against": None, "report": str(report) if report else None}
        if differences:
            told["against"] = found[1].plain() | {"differences": differences}
        return print_json(told)
    for one in found:
        console.print(one.sentence, highlight=False, markup=False)
        print_table(f"Model {one.version}", _rows(one.plain()["measures"]), ["measure", "value", "low", "high"])
        for sentence in one.notes:
            console.print(sentence, highlight=False)
    if differences:
        title = f"{found[0].version} above {found[1].version}"
        print_table(title, _rows(differences), ["measure", "value", "low", "high"])
    wrong = [{"path": film.name, "label": film.label_name, "probability": film.said} for film in found[0].wrong]
    if wrong:
        title = f"Read wrongly: {len(wrong)}" + (f", the worst {SHOWN}" if len(wrong) > SHOWN else "")
        print_table(title, wrong[:SHOWN], ["path", "label", "probability"])
    return _say_where(report)


def _rows(measures: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"measure": name.replace("_", " "), **figure} for name, figure in measures.items()]


def _say_where(report: Path | None) -> None:
    from pneumowatch.cli.output import console

    if report:
        console.print(f"The report lies in {report}", soft_wrap=True, markup=False, highlight=False)
