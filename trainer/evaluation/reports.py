"""Reports as one HTML page each: figures as inline SVG, images inlined, no script, nothing loaded from elsewhere."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from pneumowatch import __version__
from pneumowatch.errors import TrainingError
from trainer import survey
from trainer.dataset import CLASSES, SPLITS
from trainer.evaluation import metrics, model_evaluation
from trainer.evaluation.model_evaluation import ModelEvaluation

WORST_SHOWN: Final = 24  # images shown of each kind of error
PLOT: Final = 300  # edge of a figure's plot area in SVG units, which the page scales
METRIC_NAMES: Final = {
    "accuracy": "Accuracy",
    "sensitivity": "Sensitivity (recall)",
    "specificity": "Specificity",
    "precision": "Precision",
    "f1": "F1",
    "auc": "AUC",
    "brier": "Brier score (lower is better)",
    "calibration_error": "Expected calibration error (lower is better)",
}


def write_evaluation(target: Path, found: Sequence[ModelEvaluation]) -> Path:
    """Write the page of one model, or of two that are compared, and return where it lies.

    Args:
        target: a file, or a folder that gets `evaluation-VERSION.html`.

    Raises TrainingError where it cannot be written.
    """
    first = found[0]
    differences = model_evaluation.compare_evaluations(first, found[1]) if len(found) > 1 else None
    page = (
        _environment()
        .get_template("evaluation.html")
        .render(
            **_common(),
            found=found,
            first=first,
            names=METRIC_NAMES,
            differences=differences,
            curves=[_curve(one) for one in found],
            bins=_bins(first),
            plot=PLOT,
            worst=_worst(first),
        )
    )
    return _write(target, f"evaluation-{first.version}.html", page)


def write_survey(target: Path, facts: dict[str, Any]) -> Path:
    """Write the page of a survey's facts and return where it lies. Raises TrainingError where it cannot be written."""
    page = (
        _environment()
        .get_template("survey.html")
        .render(
            **_common(),
            facts=facts,
            classes=CLASSES,
            splits=SPLITS,
            ranges=survey.RANGES,
            plot=PLOT,
            grays=[
                _line(enumerate(facts["gray_histogram"][name]), survey.GRAY_BINS - 1, _highest_share(facts))
                for name in CLASSES
            ],
            patients=_bars(facts["images_per_patient"]),
        )
    )
    return _write(target, "survey.html", page)


def training_page(card: dict[str, Any]) -> str:
    """Render the page of a training run from its model's card, whose `history` holds at least one epoch."""
    history = card["history"]
    losses = [[at[name] for at in history] for name in ("loss", "validation_loss")]
    accuracies = [at["validation_accuracy"] for at in history]
    highest = max(max(of) for of in losses) or 1.0
    lowest = min(math.floor(min(accuracies) * 10) / 10, 0.9)  # end of the axis, so that good epochs differ visibly
    last = max(len(history) - 1, 1)
    kept = card["kept_epoch"] - 1
    return (
        _environment()
        .get_template("training.html")
        .render(
            **_common(),
            card=card,
            history=history,
            plot=PLOT,
            losses=[_line(enumerate(of), last, highest) for of in losses],
            kept_loss=[_line([(kept, losses[1][kept])], last, highest).split(",")],
            loss_ticks=[f"{highest * tick / 4:.2f}" for tick in range(5)],
            accuracy=_line(enumerate(value - lowest for value in accuracies), last, 1 - lowest),
            accuracy_ticks=[f"{lowest + (1 - lowest) * tick / 4:.3f}" for tick in range(5)],
        )
    )


@dataclass(frozen=True)
class _Bar:
    name: str
    count: int
    share: float  # of the highest, 0 to 1


@dataclass(frozen=True)
class _Image:
    name: str
    probability: float
    uri: str


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("trainer", "pages"),
        autoescape=True,  # file names come from other people
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = lambda value: "undefined" if value is None or value != value else f"{value:.3f}"
    environment.filters["signed"] = lambda value: "undefined" if value is None else f"{value:+.3f}"
    return environment


def _common() -> dict[str, Any]:
    return {"code_version": __version__, "written_at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")}


def _curve(one: ModelEvaluation) -> str | None:
    """Return the ROC curve as SVG points; None where one class is missing."""
    alarms, hits = metrics.roc_curve(one.labels, one.probabilities)
    if len(set(one.labels.tolist())) < len(CLASSES):
        return None
    return _line(zip(alarms.tolist(), hits.tolist(), strict=True), 1, 1)


def _line(points: Any, widest: float, highest: float) -> str:
    return " ".join(f"{PLOT * x / widest:.1f},{PLOT * (1 - y / highest):.1f}" for x, y in points)


def _bins(one: ModelEvaluation) -> list[metrics.CalibrationBin]:
    return metrics.calibration_curve(one.labels, one.probabilities)


def _highest_share(facts: dict[str, Any]) -> float:
    return max(max(shares) for shares in facts["gray_histogram"].values()) or 1.0


def _bars(counts: dict[str, int]) -> list[_Bar]:
    return [_Bar(name, count, count / max(counts.values())) for name, count in counts.items()]


def _worst(one: ModelEvaluation) -> list[tuple[str, int, list[_Image]]]:
    """Return for each kind of error its title, the number of errors, and the worst of them."""
    kinds = []
    for label, title in ((1, "Missed: pneumonia, not flagged"), (0, "False alarms: normal, flagged")):
        misclassified = [image for image in one.misclassified if image.image.label == label]
        pictures = [
            _Image(image.name, image.probability, _inlined(image.image.pixels)) for image in misclassified[:WORST_SHOWN]
        ]
        kinds.append((title, len(misclassified), pictures))
    return kinds


def _inlined(pixels: Any) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _write(target: Path, name: str, page: str) -> Path:
    path = target if target.suffix.lower() in (".html", ".htm") else target / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, "utf-8")
    except OSError as error:
        raise TrainingError(f"The report {path} cannot be written: {error.strerror}.") from None
    return path
