"""The shipped model, compared with its card."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pneumowatch.model_folder import REFERENCE, shipped_folder
from trainer import dataset, networks
from trainer.model_writer import TRAINING_PAGE
from trainer.student import predict_probabilities
from trainer.train import evaluate_examples


@pytest.fixture(scope="module")
def loaded() -> Any:
    folder = shipped_folder()
    folder.verify()
    return networks.load_keras().saving.load_model(folder.weights, safe_mode=True, compile=False)


def test_it_gives_its_reference_outputs(loaded: Any) -> None:
    with np.load(shipped_folder().path / REFERENCE, allow_pickle=False) as reference:
        images, expected = reference["images"], reference["probabilities"]
    assert predict_probabilities(loaded, images) == pytest.approx(expected, abs=1e-5)


def test_its_folder_holds_nothing_else() -> None:
    names = {path.name for path in shipped_folder().path.iterdir()} - {TRAINING_PAGE}
    assert names == {"card.json", "model.keras", "reference.npz"}


def test_full_size_images_of_test_patients_read_as_the_card_says(loaded: Any, images: Path) -> None:
    folder = shipped_folder()
    test = dataset.read_dataset(images / "originals", folder.side).examples("test")
    found, told = evaluate_examples(loaded, test, folder.threshold), folder.card["metrics"]["test_full_size"]
    assert {"accuracy", "sensitivity", "specificity", "auc", "brier"} <= set(told) <= set(found)
    for name, figure in told.items():
        assert found[name].value == pytest.approx(figure["value"], abs=1e-3), name
