"""The classifier: an image has the same probability in any batch, and a bad model is refused."""

import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny_models import BRIGHT, SIDE, gated_network, reference_images, tiny_network, write_card, write_model

from pneumowatch.errors import DeviceOutOfMemory, ModelError, SettingsError
from pneumowatch.model_folder import REFERENCE, WEIGHTS, ModelFolder
from worker.inference.adaptive_batch import AdaptiveBatchSize
from worker.inference.classifier import Classifier

BATCH = 16
IMAGES = reference_images(count=BATCH)[..., 0]


@pytest.fixture(scope="module")
def classifier(tiny_model: ModelFolder) -> Classifier:
    return Classifier(tiny_model, BATCH, "cpu")


@pytest.fixture
def copy(tiny_model: ModelFolder, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model.path, tmp_path / "copy"))


def test_it_says_what_its_folder_says(classifier: Classifier, tiny_model: ModelFolder) -> None:
    assert (classifier.version, classifier.side, classifier.threshold) == ("standin-1", SIDE, 0.5)
    with np.load(tiny_model.path / REFERENCE) as reference:
        found = classifier.predict(reference["images"][..., 0]).probability
        np.testing.assert_allclose(found, reference["probabilities"], atol=1e-5)


def test_a_probability_does_not_depend_on_the_batch(classifier: Classifier) -> None:
    single = np.concatenate([classifier.predict(image[None]).probability for image in IMAGES])
    assert single.dtype == np.float32
    assert np.ptp(single) > 0.01  # the images differ, or this would show nothing
    for size in range(1, BATCH + 1):
        np.testing.assert_allclose(classifier.predict(IMAGES[:size]).probability, single[:size], atol=1e-5)
    backwards = classifier.predict(IMAGES[::-1]).probability
    np.testing.assert_allclose(backwards[::-1], single, atol=1e-5)
    company = IMAGES.copy()
    company[:-1] = 255
    assert classifier.predict(company).probability[-1] == pytest.approx(single[-1], abs=1e-5)


def test_equal_calls_give_equal_bits(classifier: Classifier) -> None:
    first, second = (classifier.predict(IMAGES[:5]).probability for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_padding_answers_for_nobody(classifier: Classifier) -> None:
    assert [len(classifier.predict(IMAGES[:count]).probability) for count in (1, 2, 7, 8, 9, 15, 16)] == [
        1,
        2,
        7,
        8,
        9,
        15,
        16,
    ]


@pytest.mark.parametrize("batch_size", [1, 3, 8, 9])
def test_any_batch_size(tiny_model: ModelFolder, classifier: Classifier, batch_size: int) -> None:
    other = Classifier(tiny_model, batch_size, "cpu")
    images = IMAGES[:batch_size]
    np.testing.assert_allclose(other.predict(images).probability, classifier.predict(images).probability, atol=1e-5)


@pytest.mark.parametrize("device", ["gpu:99", "gpu:0x", "gpu", "gpu:", "gpu:-1", "tpu:0", "CPU", "", "gpu:0:1"])
def test_a_device_that_is_not_there_is_no_silent_cpu(tiny_model: ModelFolder, device: str) -> None:
    with pytest.raises(SettingsError, match=r"not a device|does not see"):
        Classifier(tiny_model, BATCH, device)


def test_a_model_that_gives_no_numbers_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    network = tiny_network()
    network.layers[-1].set_weights([np.full((8, 1), np.nan, np.float32), np.zeros(1, np.float32)])
    with pytest.raises(ModelError, match="not probabilities"):
        Classifier(write_model(tmp_path / "nan", network), BATCH, "cpu")


def test_an_image_that_makes_no_number_is_an_error_and_not_a_result(tmp_path: Path) -> None:
    network = tiny_network()
    _, bias = network.layers[1].get_weights()
    network.layers[1].set_weights([np.full((5, 5, 1, 8), 3e38, np.float32), bias])  # infinite, but for black
    signs = np.array([1, -1] * 4, np.float32)[:, None]
    network.layers[-1].set_weights([signs, np.zeros(1, np.float32)])  # infinite less infinite
    folder = write_model(tmp_path / "fragile", network)
    black = np.zeros((1, SIDE, SIDE, 1), np.uint8)
    np.savez(folder.path / REFERENCE, images=black, probabilities=np.float32([0.5]))
    fragile = Classifier(folder, BATCH, "cpu")
    assert fragile.predict(black[..., 0]).probability.tolist() == [0.5]
    with pytest.raises(ModelError, match="not probabilities"):
        fragile.predict(np.full((1, SIDE, SIDE), 255, np.uint8))


def test_outputs_beyond_one_are_no_probabilities(tmp_path: Path) -> None:
    import keras

    layers = keras.layers
    network = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 1), dtype="uint8"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(1, bias_initializer="ones"),
        ]
    )
    network.layers[-1].set_weights([np.ones((1, 1), np.float32), np.ones(1, np.float32)])
    with pytest.raises(ModelError):
        Classifier(write_model(tmp_path / "linear", network), BATCH, "cpu")


# what a model may give beside the probability


def test_a_model_without_map_and_gate_takes_every_image_for_a_chest(classifier: Classifier) -> None:
    found = classifier.predict(IMAGES[:5])
    assert found.gate_score.tolist() == [0] * 5
    assert found.maps is None


@pytest.mark.parametrize("count", [1, 5, BATCH])
def test_a_model_with_map_and_gate(gated_model: ModelFolder, count: int) -> None:
    images = IMAGES.copy()
    images[0] = 255
    found = Classifier(gated_model, BATCH, "cpu").predict(images[:count])
    assert found.maps is not None
    assert (found.maps.shape, found.maps.dtype) == ((count, 15, 15), np.float32)
    logits = found.maps.mean(axis=(1, 2), dtype=np.float64)
    np.testing.assert_allclose(found.probability, 1 / (1 + np.exp(-logits)), atol=1e-5)
    np.testing.assert_allclose(found.gate_score, images[:count].mean(axis=(1, 2)) / BRIGHT, atol=1e-4)
    assert (found.gate_score > 1).tolist() == [True] + [False] * (count - 1)


@pytest.mark.parametrize("outputs", ["no probability", "another name", "a flat map"])
def test_outputs_that_nobody_knows_are_refused(tmp_path: Path, outputs: str) -> None:
    import keras

    network = gated_network()
    said = dict(network.output)
    given = {
        "no probability": {"map": said["map"], "gate_score": said["gate_score"]},
        "another name": {**said, "verdict": said["gate_score"]},
        "a flat map": {**said, "map": said["gate_score"]},
    }[outputs]
    folder = write_model(tmp_path / "complete", network)
    keras.Model(network.input, given).save(folder.weights)
    write_card(folder.path)
    with pytest.raises(ModelError, match="gives"):
        Classifier(ModelFolder.read(folder.path), BATCH, "cpu")


def test_a_gate_score_that_is_no_number_is_an_error(tmp_path: Path) -> None:
    network = gated_network()
    network.get_layer("strange").set_weights([np.full((1, 1), np.nan, np.float32)])
    with pytest.raises(ModelError, match="not numbers"):
        Classifier(write_model(tmp_path / "nan", network), BATCH, "cpu")


# the folder


@pytest.mark.parametrize(
    "content",
    [b"", b"no archive", b"PK\3\4 and then no more of it"],
    ids=["empty", "text", "cut"],
)
def test_a_damaged_reference_is_a_sentence(copy: Path, content: bytes) -> None:
    (copy / REFERENCE).write_bytes(content)
    with pytest.raises(ModelError, match="reference"):
        Classifier(ModelFolder.read(copy), BATCH, "cpu")


def reference(**changed: Any) -> dict[str, Any]:
    return {"images": IMAGES[:2, ..., None], "probabilities": np.float32([0.5, 0.5]), **changed}


@pytest.mark.parametrize(
    "arrays",
    [
        {"images": IMAGES[:2, ..., None]},
        reference(),
        reference(probabilities=np.float32([np.nan, np.nan])),
        reference(images=IMAGES[:0, ..., None], probabilities=np.float32([])),
        reference(images=np.zeros((2, 9, 9, 1), np.uint8)),
        reference(probabilities=np.float32([0.5])),
        reference(images=np.array([{}, {}], dtype=object)),
    ],
    ids=["no probabilities", "other probabilities", "nan", "no images", "another size", "fewer", "pickled"],
)
def test_a_reference_that_does_not_fit_is_refused(copy: Path, arrays: dict[str, Any]) -> None:
    np.savez(copy / REFERENCE, **arrays)
    with pytest.raises(ModelError):
        Classifier(ModelFolder.read(copy), BATCH, "cpu")


def test_a_missing_reference_is_refused(copy: Path) -> None:
    (copy / REFERENCE).unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        Classifier(ModelFolder.read(copy), BATCH, "cpu")


def test_a_card_of_another_size_is_refused(copy: Path) -> None:
    write_card(copy, SIDE + 1)
    with pytest.raises(ModelError, match="its card says"):
        Classifier(ModelFolder.read(copy), BATCH, "cpu")


def test_weights_that_keras_cannot_load_are_a_sentence(copy: Path) -> None:
    with zipfile.ZipFile(copy / WEIGHTS) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(copy / WEIGHTS, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part[: len(part) // 2] if name.endswith(".h5") else part)
    write_card(copy)
    with pytest.raises(ModelError, match="cannot be loaded"):
        Classifier(ModelFolder.read(copy), BATCH, "cpu")


def test_keras_own_lambda_is_refused(tmp_path: Path) -> None:
    import keras

    layers = keras.layers
    network = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 1), dtype="uint8"),
            layers.Lambda(lambda images: keras.ops.cast(images, "float32") / 255, output_shape=(SIDE, SIDE, 1)),
            layers.GlobalAveragePooling2D(),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    with pytest.raises(ModelError, match="Lambda"):
        Classifier(write_model(tmp_path / "code", network), BATCH, "cpu")


class Card:
    """A device that holds so many images at once: wraps the network's compiled function."""

    def __init__(self, classifier: Classifier, holds: int) -> None:
        self._run = classifier._run
        self.holds = holds
        self.shapes: list[int] = []

    def __call__(self, images: Any) -> Any:
        from tensorflow.errors import ResourceExhaustedError

        self.shapes.append(len(images))
        if len(images) > self.holds:
            raise ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[16,64,64,8]")
        return self._run(images)


@pytest.mark.parametrize("holds", [8, 5, 1])
def test_a_card_that_is_too_small_for_a_batch_reads_it_in_parts(
    gated_model: ModelFolder, monkeypatch: pytest.MonkeyPatch, holds: int
) -> None:
    classifier = Classifier(gated_model, BATCH, "cpu")
    expected = classifier.predict(IMAGES)
    card = Card(classifier, holds)
    monkeypatch.setattr(classifier, "_run", card)
    for _ in range(2):
        found = classifier.predict(IMAGES)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
    fitting = {1: 1, 5: 4, 8: 8}[holds]
    assert card.shapes == [BATCH // 2**n for n in range(5) if BATCH // 2**n > fitting] + 2 * [fitting] * (
        BATCH // fitting
    )  # the second time, it was known
    card.shapes.clear()
    classifier.predict(IMAGES[:1])
    assert card.shapes == [1]  # a single image is still read in a batch of one


def test_a_card_that_holds_nothing_is_full_for_now(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card(classifier, 0)
    monkeypatch.setattr(classifier, "_adaptive_batch", AdaptiveBatchSize(BATCH))
    monkeypatch.setattr(classifier, "_run", card)
    with pytest.raises(DeviceOutOfMemory):
        classifier.predict(IMAGES)
    card.holds = BATCH
    assert len(classifier.predict(IMAGES).probability) == BATCH
