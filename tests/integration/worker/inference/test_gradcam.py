"""Heat maps: from the model's own map, or by Grad-CAM; and their rendering."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from support.tiny_models import SIDE, reference_images, write_model
from typer.testing import CliRunner

from cli import query
from pneumowatch.errors import ModelError, SettingsError
from pneumowatch.imaging import overlay
from pneumowatch.model_folder import ModelFolder
from worker.inference.classifier import Classifier, load_network
from worker.inference.gradcam import Explainer

IMAGES = reference_images(count=3)[..., 0]


def explained(folder: ModelFolder, images: np.ndarray) -> tuple[Any, np.ndarray]:
    read = Classifier(folder, 4, "cpu").predict(images)
    return read, Explainer(folder).heatmaps(images, read)


def test_the_heat_of_a_map_is_each_places_probability(gated_model: ModelFolder) -> None:
    read, heat = explained(gated_model, IMAGES)
    assert heat.shape == (3, 15, 15)
    assert heat.dtype == np.float32
    np.testing.assert_allclose(heat, 1 / (1 + np.exp(-read.maps)), atol=1e-6)


def test_gradcam_weighs_features_by_how_much_they_move_the_logit(tiny_model: ModelFolder) -> None:
    """Of a network that ends in an average and one weight a feature, Grad-CAM is known: those weights."""
    import keras

    read, heat = explained(tiny_model, IMAGES)
    network = load_network(tiny_model)
    features = keras.Model(network.inputs, network.layers[-3].output).predict(IMAGES[..., None], verbose=0)
    expected = np.maximum(features @ network.layers[-1].get_weights()[0][:, 0], 0)
    assert expected.max() > 0
    expected *= read.probability[:, None, None] / np.maximum(expected.max((1, 2), keepdims=True), 1e-12)
    np.testing.assert_allclose(heat, expected, atol=1e-5)


def certain(side: int = SIDE) -> Any:
    """A network of the notebook's form that is sure of everything: its probabilities are exactly one."""
    import keras

    keras.utils.set_random_seed(1)
    layers = keras.layers
    images = keras.Input((side, side, 1), dtype="uint8")
    x = layers.MaxPooling2D(2)(layers.Conv2D(4, 3, activation="relu")(layers.Rescaling(1 / 255)(images)))
    x = layers.Dense(8, activation="relu")(layers.Flatten()(x))
    network = keras.Model(images, layers.Dense(1, activation="sigmoid")(x))
    kernel, bias = network.layers[-1].get_weights()
    network.layers[-1].set_weights([np.abs(kernel), bias + 50])
    return network


def test_gradcam_of_an_image_that_the_model_is_certain_of(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "certain", certain())
    read, heat = explained(folder, IMAGES)
    assert read.probability.tolist() == [1, 1, 1]
    assert np.isfinite(heat).all()
    assert heat.max((1, 2)) == pytest.approx([1, 1, 1])
    assert heat.min() >= 0


def test_the_explainer_leaves_what_the_model_says_as_it_is(tiny_model: ModelFolder) -> None:
    classifier = Classifier(tiny_model, 4, "cpu")
    before = classifier.predict(IMAGES)
    Explainer(tiny_model).heatmaps(IMAGES, before)
    assert classifier.predict(IMAGES).probability.tolist() == before.probability.tolist()


def test_a_network_that_looks_at_the_flat_image_has_no_places(tmp_path: Path) -> None:
    import keras

    layers = keras.layers
    images = keras.Input((SIDE, SIDE, 1), dtype="uint8")
    x = layers.Flatten()(layers.Rescaling(1 / 255)(images))
    folder = write_model(tmp_path / "flat", keras.Model(images, layers.Dense(1, activation="sigmoid")(x)))
    with pytest.raises(ModelError, match="has no convolution"):
        Explainer(folder)


def test_the_picture_is_hot_where_the_model_was_moved_and_says_what_it_shows() -> None:
    image, heat = np.full((64, 64), 100, np.uint8), np.zeros((8, 8), np.float32)
    heat[1, 6] = 1
    picture = np.asarray(Image.open(io.BytesIO(overlay.overlay_png(image, heat)))).astype(int)
    assert picture.shape == (overlay.OVERLAY_EDGE + overlay.LEGEND_HEIGHT, overlay.OVERLAY_EDGE, 3)
    shown = picture[: overlay.OVERLAY_EDGE]
    redder = shown[..., 0] - shown[..., 2]
    row, column = np.unravel_index(redder.argmax(), redder.shape)
    assert (row // 64, column // 64) == (1, 6)
    assert (shown[-64:, :64] == 100).all()  # where the map is low, the image itself is shown
    assert (picture[overlay.OVERLAY_EDGE :] > 200).any()  # the legend


def test_pictures_are_named_as_their_images() -> None:
    images = [Path("a/one.dcm"), Path("b/one.png"), Path("two.jpeg"), Path("c/one")]
    assert overlay.overlay_names(images) == ["one.png", "one-2.png", "two.png", "one-3.png"]


@pytest.mark.parametrize("which", ["tiny_model", "gated_model"])
def test_classify_explains_what_it_scores(
    which: str, request: pytest.FixtureRequest, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PNEUMOWATCH_DATA_DIR", str(tmp_path / "data"))
    folder = Path(shutil.copytree(phantoms, tmp_path / "images"))
    images = [*sorted(folder.iterdir())[:2], folder / "letter.txt"]
    images[2].write_text("Dear colleague")
    app, model = typer.Typer(), request.getfixturevalue(which).path
    app.command()(query.classify)
    to = tmp_path / "pictures"
    result = CliRunner().invoke(app, [*map(str, images), "--model", str(model), "--explain", str(to), "--json"])
    assert result.exit_code == 1  # the letter
    rows = json.loads(result.stdout)
    assert [row["explanation"] for row in rows] == [str(to / f"{image.stem}.png") for image in images[:2]] + [None]
    assert sorted(path.name for path in to.iterdir()) == sorted(f"{image.stem}.png" for image in images[:2])
    with Image.open(rows[0]["explanation"]) as picture:
        assert picture.size == (overlay.OVERLAY_EDGE, overlay.OVERLAY_EDGE + overlay.LEGEND_HEIGHT)


def test_pictures_that_cannot_be_written_are_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SettingsError, match="overlays cannot be written"):
        overlay.write_overlay(tmp_path / "file" / "one.png", IMAGES[0], np.zeros((2, 2), np.float32))
