"""Labelled images by every path: `classify`, the pipeline and `evaluate` give the same result for each."""

import sqlite3
from pathlib import Path

import pytest
from support.programs import environment, run

from pneumowatch.model_folder import shipped_folder

IMAGES = 16


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory, sample: list[Path]) -> Path:
    folder = tmp_path_factory.mktemp("labelled")
    for number, image in enumerate(sample[:IMAGES]):
        path = folder / ("NORMAL", "PNEUMONIA")[number % 2] / f"site-{number}{image.suffix}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(image.read_bytes())
    return folder


def test_every_door_says_the_same(labelled: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    evaluated = run("evaluate", "--data", labelled, "--split", "all", "--json", "--report", page, cwd=tmp_path)
    assert evaluated.code == 0, evaluated.err
    assert evaluated.json["model_version"] == shipped_folder().version
    assert page.read_text("utf-8").startswith("<!doctype html>")
    said = {image["path"]: image for image in evaluated.json["images"]}
    assert len(said) == IMAGES

    here = run("classify", "--json", *(labelled / name for name in said), cwd=tmp_path)
    assert here.code == 0, here.err
    for name, row in zip(said, here.json, strict=True):
        assert said[name]["probability"] == pytest.approx(row["probability"], abs=1e-5)
        assert said[name]["flagged"] == row["flagged"]

    piped = run("up", "--once", "--inbox", labelled, cwd=tmp_path, env=environment(data_dir=tmp_path / "data"))
    assert piped.code == 0, piped.err
    with sqlite3.connect(tmp_path / "data" / "pneumowatch.db") as ledger:
        rows = ledger.execute("SELECT path, probability, flagged FROM scan_ledger").fetchall()
    ledger.close()
    assert {path for path, _, _ in rows} == set(said)
    for path, probability, flagged in rows:
        assert said[path]["probability"] == pytest.approx(probability, abs=1e-5)
        assert said[path]["flagged"] == bool(flagged)


@pytest.mark.slow
def test_against_itself_and_what_cannot_be_evaluated(labelled: Path, tmp_path: Path) -> None:
    version = shipped_folder().version
    same = run(
        "evaluate", "--model", version, "--against", shipped_folder().path,
        "--data", labelled, "--split", "all", "--json",
        cwd=tmp_path,
    )  # fmt: skip
    assert same.code == 0, same.err
    assert same.json["against"]["model_version"] == version
    assert same.json["against"]["differences"]["auc"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert run("evaluate", "--data", tmp_path, cwd=tmp_path).code == 1
    unknown = run("evaluate", "--data", labelled, "--model", "none-such", cwd=tmp_path)
    assert (unknown.code, unknown.out) == (1, "")
    assert "none-such" in unknown.err
    assert run("evaluate", "--data", labelled, "--split", "half", cwd=tmp_path).code == 2
    assert run("survey", labelled, "--patient-pattern", "(", cwd=tmp_path).code == 2


def test_a_survey_of_them(labelled: Path, tmp_path: Path) -> None:
    told = run("survey", labelled, "--json", "--report", tmp_path, cwd=tmp_path)
    assert told.code == 0, told.err
    assert told.json["images"] == IMAGES
    assert (tmp_path / "survey.html").exists()
    table = run("survey", labelled, cwd=tmp_path)
    assert "Images and patients by split" in table.out
