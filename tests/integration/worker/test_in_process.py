"""Classifying without queue and database: results for chest x-rays, for other pictures, and for other files."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from pneumowatch.model_folder import ModelFolder
from pneumowatch.settings import Settings
from worker.in_process import classify_files


@pytest.fixture
def files(tmp_path: Path, phantoms: Path) -> list[Path]:
    folder = Path(shutil.copytree(phantoms, tmp_path / "images"))
    images = sorted(folder.iterdir())[:3]
    picture = folder / "page.png"
    page = Image.new("L", (90, 120), 250)
    page.putpixel((40, 40), 0)
    page.save(picture)
    (folder / "letter.txt").write_text("Dear colleague")
    return [images[0], picture, images[1], folder / "letter.txt", images[2]]


def test_what_is_no_chest_image_gets_no_probability(
    files: list[Path], gated_model: ModelFolder, tmp_path: Path
) -> None:
    rows = classify_files(files, Settings(data_dir=tmp_path, batch_size=2), gated_model.path)
    assert [row["path"] for row in rows] == [str(file) for file in files]
    assert [row["reason"] for row in rows] == [None, "not_chest_xray", None, "unsupported", None]
    assert [row["state"] for row in rows] == ["classified", "rejected", "classified", "rejected", "classified"]
    for row in rows:
        scored = row["state"] == "classified"
        assert (row["probability"] is not None) == (row["flagged"] is not None) == scored
        assert (row["sentence"] is None) == scored


def test_a_model_without_a_gate_scores_every_picture(
    files: list[Path], tiny_model: ModelFolder, tmp_path: Path
) -> None:
    rows = classify_files(files, Settings(data_dir=tmp_path), tiny_model.path)
    assert [row["reason"] for row in rows] == [None, None, None, "unsupported", None]
