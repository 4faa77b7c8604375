import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from pneumowatch.errors import TrainingError
from pneumowatch.imaging.reader import Pixels
from pneumowatch.model_folder import shipped_folder
from trainer import dataset, survey
from trainer.dataset import PatientIdRule
from trainer.evaluation import model_evaluation, reports
from trainer.evaluation.model_evaluation import ModelEvaluation

HOSTILE = "<img src=x onerror=alert(1)>&.png"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight images of each class, noise as bright as the probability that `brightness` gives; one name is hostile."""
    for label, name in enumerate(dataset.CLASSES):
        (tmp_path / name).mkdir()
        for number in range(8):
            level = 40 + 100 * label + 12 * number
            pixels = np.random.default_rng([label, number]).normal(level, 15, (60, 50)).clip(0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / name / f"site{label}-{number}.png")
    (tmp_path / "NORMAL" / "site0-7.png").rename(tmp_path / "NORMAL" / HOSTILE)
    return tmp_path


def brightness(images: Pixels) -> np.ndarray:
    return (images.mean((1, 2)) / 255).astype(np.float32)


def darkness(images: Pixels) -> np.ndarray:
    return 1 - brightness(images)


def assessed(folder: Path, predict=brightness, split: str = "all", both: bool = True) -> ModelEvaluation:
    model = shipped_folder()
    return model_evaluation.evaluate_model(
        model, dataset.read_dataset(folder, model.side, require_both_classes=both), folder, split, predict
    )


class Page(HTMLParser):
    """Collects what a page refers to, and whether all its elements are closed."""

    VOID = ("meta", "img", "link", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.references: list[str] = []
        self.handlers: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attributes if name in ("src", "href", "xlink:href")]
        self.handlers += [name for name, _ in attributes if name.startswith("on")]
        if tag == "img":
            self.images.append(dict(attributes))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_each_image_has_its_probability_and_flag(folder: Path) -> None:
    said = assessed(folder)
    assert len(said.scored_images) == 16
    assert all(one.flagged == (one.probability >= shipped_folder().threshold) for one in said.scored_images)
    assert {one.name for one in said.scored_images} >= {f"NORMAL/{HOSTILE}", "PNEUMONIA/site1-0.png"}
    assert [one.error for one in said.misclassified] == sorted((one.error for one in said.misclassified), reverse=True)
    assert len(said.misclassified) == said.confusion["false_negative"] + said.confusion["false_positive"] > 0
    assert sum(said.confusion.values()) == 16


def folder_splits(folder: Path) -> set[str]:
    return set(dataset.read_dataset(folder, 32).splits)


def test_a_split_is_of_its_patients_only(folder: Path) -> None:
    read = [one for split in folder_splits(folder) for one in assessed(folder, split=split).scored_images]
    assert len(read) == len({one.name for one in read}) == 16


def test_a_split_without_images_is_an_error_that_tells_a_way(folder: Path) -> None:
    for path in folder.glob("*/*"):
        path.rename(path.with_name(f"IM-0001-{path.name}"))  # one patient
    empty = next(split for split in dataset.SPLITS if split not in folder_splits(folder))
    with pytest.raises(TrainingError, match="--split all"):
        assessed(folder, split=empty)


def test_one_class_leaves_measures_undefined_and_says_so(folder: Path) -> None:
    (folder / "NORMAL").rename(folder / "away")
    said = assessed(folder, both=False)
    plain = json.loads(json.dumps(said.as_dict(), allow_nan=False))
    assert plain["measures"]["specificity"] == plain["measures"]["auc"] == {"value": None, "low": None, "high": None}
    assert plain["measures"]["sensitivity"]["value"] is not None
    assert plain["data"]["classes"] == {"NORMAL": 0, "PNEUMONIA": 8}
    assert "no image of NORMAL" in said.notes[0]
    assert "specificity" in said.notes[0]
    page = reports.write_evaluation(folder / "page.html", [said]).read_text("utf-8")
    assert "undefined" in page
    assert "ROC curve" not in page


def test_the_page_needs_nothing_and_runs_nothing(folder: Path) -> None:
    found = [assessed(folder), assessed(folder, darkness)]
    path = reports.write_evaluation(folder / "reports", found)
    assert path == folder / "reports" / f"evaluation-{shipped_folder().version}.html"
    text = path.read_text("utf-8")
    page = Page(text)
    assert page.open == []
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert page.handlers == []
    assert page.references
    assert all(reference.startswith("data:image/png;base64,") for reference in page.references)
    assert not re.search(r"https?:|url\(|@import", text)
    assert "&lt;img src=x onerror=alert(1)&gt;&amp;.png" in text
    assert all(image["alt"] for image in page.images)
    assert len(page.images) == len(found[0].misclassified)
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        assert ElementTree.fromstring(svg).get("aria-label")


def test_two_models_are_compared_on_the_same_images_only(folder: Path) -> None:
    one, other = assessed(folder), assessed(folder, darkness)
    above = model_evaluation.compare_evaluations(one, other)
    assert above["auc"]["value"] == pytest.approx(one.estimates["auc"].value - other.estimates["auc"].value, abs=1e-5)
    next(folder.glob("PNEUMONIA/*")).unlink()
    with pytest.raises(TrainingError, match="changed"):
        model_evaluation.compare_evaluations(one, assessed(folder, darkness))


def test_a_page_that_cannot_be_written_is_said(folder: Path) -> None:
    with pytest.raises(TrainingError, match="cannot be written"):
        reports.write_evaluation(next(folder.glob("NORMAL/*")) / "page.html", [assessed(folder)])


def test_a_survey_counts_what_is_there(folder: Path) -> None:
    (folder / "PNEUMONIA" / "twin.png").write_bytes((folder / "NORMAL" / "site0-0.png").read_bytes())
    (folder / "NORMAL" / "empty.png").write_bytes(b"")
    facts = survey.survey_dataset(
        dataset.read_dataset(folder, survey.SURVEY_SIDE, PatientIdRule((re.compile(r"site\d-\d"),)))
    )
    facts = json.loads(json.dumps(facts, allow_nan=False))
    assert (facts["images"], facts["patients"], facts["left_out"]) == (17, 17, {"empty": 1})
    assert facts["duplicates"] == {"exact": 1, "near": 0, "across_patients": 1, "across_classes": 1}
    assert facts["ranges"]["NORMAL"]["width"] == {"least": 50.0, "median": 50.0, "most": 50.0}
    assert facts["ranges"]["NORMAL"]["height"]["most"] == 60.0
    assert facts["ranges"]["NORMAL"]["mean_gray"]["median"] < facts["ranges"]["PNEUMONIA"]["mean_gray"]["median"]
    assert sum(facts["gray_histogram"]["NORMAL"]) == pytest.approx(1, abs=1e-3)
    assert sum(row["images"] for row in survey.split_rows(facts)) == 17
    assert any("labelled both ways" in sentence for sentence in facts["sentences"])
    text = reports.write_survey(folder / "survey.html", facts).read_text("utf-8")
    assert Page(text).open == []
    assert not re.search(r"https?:|url\(|<script", text)


def test_the_page_of_a_training_shows_its_epochs() -> None:
    history = [
        {"epoch": number, "loss": loss, "validation_loss": unseen, "validation_accuracy": right}
        for number, loss, unseen, right in ((1, 0.8, 0.4, 0.75), (2, 0.4, 0.2, 1.0), (3, 0.2, 0.3, 0.9))
    ]
    training = {"steps_per_epoch": 7, "batch_size": 4, "ema_momentum": 0.9}
    text = reports.training_page(
        {"version": "cnn-1<b>", "network": "cnn", "training": training, "precision": "float32", "kept_epoch": 2}
        | {"history": history}
    )
    page = Page(text)
    assert page.open == []
    assert page.references == page.handlers == []
    assert "cnn-1&lt;b&gt;" in text
    loss, accuracy = (ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    lines = [line.get("points") for line in loss.iter("polyline")]
    assert lines == ["0.0,0.0 150.0,150.0 300.0,225.0", "0.0,150.0 150.0,225.0 300.0,187.5"]
    assert [(dot.get("cx"), dot.get("cy")) for dot in loss.iter("circle")] == [("150.0", "225.0")]
    assert [line.get("points") for line in accuracy.iter("polyline")] == ["0.0,250.0 150.0,0.0 300.0,100.0"]
    assert re.search(r"2 \(kept\)</th><td class=\"n\">0.400</td>", text)


def test_the_page_of_a_training_of_one_epoch() -> None:
    at = {"epoch": 1, "loss": 0.0, "validation_loss": 0.0, "validation_accuracy": 1.0}
    training = {"steps_per_epoch": 1, "batch_size": 1, "ema_momentum": 0.0}
    card = {"version": "v", "network": "dense", "training": training, "precision": "float32", "kept_epoch": 1}
    assert Page(reports.training_page(card | {"history": [at]})).open == []
