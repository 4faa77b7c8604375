"""The reference in a model's card, against which drift is measured."""

import hashlib
import shutil
from itertools import count, islice
from pathlib import Path

import pytest

from pneumowatch.model_folder import WEIGHTS, ModelFolder, shipped_folder
from pneumowatch.settings import Settings
from trainer.dataset import split_of
from trainer.evaluation.drift_reference import write_reference


def test_the_shipped_model_has_one() -> None:
    reference = shipped_folder().card["reference"]
    splits = shipped_folder().card["data"]["counts"]["validation"].values()
    assert reference["images"] == sum(of["images"] for of in splits)
    for of in ("probability", "gate_score", "brightness"):
        edges = reference[of]["edges"]
        assert len(reference[of]["shares"]) == len(edges) + 1
        assert edges == sorted(set(edges))
        # tenths; only of probabilities, of which the surest are all the same, fewer
        assert len(edges) == 9 or (of == "probability" and edges[-1] == pytest.approx(1, abs=1e-5))
        assert sum(reference[of]["shares"]) == pytest.approx(1, abs=1e-6)


def test_an_older_card_gets_one_and_the_weights_stay(gated_model: ModelFolder, phantoms: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(gated_model.path, folder)
    before = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    drawn = sorted(phantoms.iterdir())
    held = (f"person{number}" for number in count() if split_of(f"person{number}") == "validation")
    for number, name in enumerate(islice(held, len(drawn))):
        kind = tmp_path / "images" / ("NORMAL", "PNEUMONIA")[number % 2]
        kind.mkdir(parents=True, exist_ok=True)
        shutil.copy(drawn[number], kind / f"{name}_bacteria_1{drawn[number].suffix}")
    told = write_reference(folder, tmp_path / "images", None, Settings(data_dir=tmp_path))
    written = ModelFolder.read(folder)
    written.verify()
    assert hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest() == before
    assert written.card["reference"]["images"] == told == len(drawn)
    assert {key: value for key, value in written.card.items() if key != "reference"} == gated_model.card
