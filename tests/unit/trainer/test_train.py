import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from cli import train
from pneumowatch import model_folder
from pneumowatch.errors import TrainingError
from pneumowatch.model_folder import ModelFolder
from trainer import card, dataset, model_writer, networks
from trainer.hyperparameters import Hyperparameters
from trainer.input_gate import gate
from trainer.train import TrainingProgress, TrainingResult, finalize_model, fit_network, train_model
from trainer.training_batches import shuffled_batches
from worker.inference.classifier import Classifier

# Keras 3.15 saves its variables by an `__array__` that NumPy 2 finds old; nothing of ours can change that.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

TINY = Hyperparameters(epochs=1, steps_per_epoch=2, batch_size=4)
MEASURES = {"accuracy", "sensitivity", "specificity", "precision", "f1", "auc", "brier", "calibration_error"}


def write_images(folder: Path, patients: range, side: int = 40) -> Path:
    """Write one image per patient and class: noise, brighter where ill."""
    for name, label, brightness in (("IM-{:04}-0001", "NORMAL", 90), ("person{}_virus_1", "PNEUMONIA", 160)):
        (folder / label).mkdir(parents=True, exist_ok=True)
        for patient in patients:
            pixels = np.random.default_rng([patient, brightness]).normal(brightness, 20, (side, side))
            path = folder / label / f"{name.format(patient)}.jpeg"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, "JPEG")
    return folder


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 images of 40 patients, and a file that is none."""
    folder = write_images(tmp_path_factory.mktemp("labelled"), range(1, 21))
    (folder / "NORMAL" / "IM-0099-0001.jpeg").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def standings() -> list[TrainingProgress]:
    """Every progress report of the run of `trained`."""
    return []


@pytest.fixture(scope="module")
def trained(
    labelled: Path, standings: list[TrainingProgress], tmp_path_factory: pytest.TempPathFactory
) -> TrainingResult:
    also = write_images(tmp_path_factory.mktemp("full_size"), range(1, 21), side=300)
    out = tmp_path_factory.mktemp("models") / "new"
    return train_model(labelled, out, TINY, also, Path(card.__file__).with_name("kermany.json"), standings.append)


def test_the_folder_is_one_that_everyone_accepts(trained: TrainingResult) -> None:
    folder = ModelFolder.read(trained.folder.path)
    folder.verify()
    assert sorted(path.name for path in folder.path.iterdir()) == [
        "card.json", "model.keras", "reference.npz", "training.html",
    ]  # fmt: skip
    assert folder.version == folder.path.name == f"cnn_dropout-{folder.sha256[:12]}"
    assert [path.name for path in folder.path.parent.iterdir()] == [folder.version]  # nothing unfinished beside it
    assert folder.path.stat().st_mode & 0o777 == 0o755


def test_the_loaded_model_gives_the_reference_outputs(trained: TrainingResult) -> None:
    keras = networks.load_keras()
    loaded = keras.saving.load_model(trained.folder.weights, safe_mode=True, compile=False)
    with np.load(trained.folder.path / model_folder.REFERENCE, allow_pickle=False) as reference:
        images, expected = reference["images"], reference["probabilities"]
    assert images.shape == (16, 150, 150, 1)
    assert images.dtype == np.uint8
    assert expected.dtype == np.float32
    assert loaded.predict(images, verbose=0)[:, 0] == pytest.approx(expected, abs=1e-5)
    assert not loaded.compiled


def test_the_card_says_what_the_model_is(trained: TrainingResult) -> None:
    written = trained.folder.card  # with what trainer/kermany.json knows of the set
    assert written["parameters"] == 3_453_121
    assert (written["input"]["side"], written["input"]["channels"], written["input"]["dtype"]) == (150, 1, "uint8")
    assert written["training"] == {
        **written["training"],
        "epochs": 1,
        "steps_per_epoch": 2,
        "batch_size": 4,
        "learning_rate": 1e-4,
    }
    assert written["threshold"]["target_sensitivity"] == 0.97
    assert written["data"]["licence"] == "CC BY 4.0"
    assert written["data"]["left_out"] == 1
    assert written["ages_years"] == [1, 5]
    assert written["data"]["counts"]["train"]["NORMAL"]["images"] > 10
    assert set(written["metrics"]) == {"validation", "test", "test_full_size"}
    assert all(set(metrics) == MEASURES for metrics in written["metrics"].values())
    assert written["metrics"]["validation"]["sensitivity"]["value"] >= 0.97


def test_the_card_tells_every_epoch_and_what_the_model_gives(
    trained: TrainingResult, standings: list[TrainingProgress]
) -> None:
    written = trained.folder.card
    (at,) = written["history"]
    assert at == {
        "epoch": 1,
        "loss": round(standings[-1].loss, 6),
        "validation_loss": round(standings[-1].validation_loss, 6),
        "validation_accuracy": round(standings[-1].validation_accuracy, 6),
    }
    assert written["kept_epoch"] == 1
    assert written["precision"] == "float32"
    assert written["outputs"] == {"map": None, "gate": False}


@pytest.mark.slow
def test_the_card_of_a_compact_network_tells_its_map(compact: ModelFolder) -> None:
    assert compact.card["outputs"] == {"map": [10, 10], "gate": False}
    assert compact.card["parameters"] == networks.NETWORKS["compact"].folded_parameters


@pytest.mark.slow
def test_the_kept_epoch_is_the_last_or_with_patience_the_best(labelled: Path, tmp_path: Path) -> None:
    images = dataset.read_dataset(labelled, 150)
    reviewed = {"validation": images.examples("validation")}
    history = [TrainingProgress(epoch, 1, 0.5, loss, 0.8, True) for epoch, loss in ((1, 0.4), (2, 0.3), (3, 0.6))]
    for patience, kept in ((0, 3), (1, 2)):
        hyperparameters = replace(TINY, network="dense", patience=patience)
        model = networks.build("dense")
        folder = finalize_model(
            model, hyperparameters, images, card.UNSTATED, tmp_path / str(patience), reviewed, history
        )
        assert folder.card["kept_epoch"] == kept
        assert f"{kept} (kept)" in (folder.path / "training.html").read_text("utf-8")


def test_what_nobody_stated_is_not_invented() -> None:
    assert card.read_data_description(None)["data"] == {"source": "not stated"}
    assert "ages_years" not in card.read_data_description(None)


def test_a_description_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "about.json").write_text('{"data": {}}', "utf-8")
    with pytest.raises(TrainingError, match="limits"):
        card.read_data_description(tmp_path / "about.json")


@pytest.mark.parametrize("ages", ["[5, 1]", "[1]", '"all"', "[-1, 5]"])
def test_ages_that_cannot_be_are_refused(tmp_path: Path, ages: str) -> None:
    (tmp_path / "about.json").write_text(f'{{"data": {{}}, "limits": [], "ages_years": {ages}}}', "utf-8")
    with pytest.raises(TrainingError, match="kermany"):
        card.read_data_description(tmp_path / "about.json")


def test_what_was_left_out_is_told(trained: TrainingResult) -> None:
    assert [(one.path.name, one.reason) for one in trained.left_out] == [("IM-0099-0001.jpeg", "unsupported")]


def test_a_watcher_sees_every_step_and_the_epochs_end(
    trained: TrainingResult, standings: list[TrainingProgress]
) -> None:
    assert [(at.epoch, at.step) for at in standings] == [(1, 1), (1, 2), (1, 2)]
    assert np.isnan(standings[1].validation_loss)
    assert 0 <= standings[2].validation_accuracy <= 1
    assert standings[2].validation_loss > 0


def test_both_forms_are_learned_from_and_evaluated_apart(trained: TrainingResult, labelled: Path) -> None:
    counts = trained.folder.card["data"]["counts"]
    one_form = dataset.read_dataset(labelled, 150).counts()
    for split in dataset.SPLITS:
        for name in dataset.CLASSES:
            assert counts[split][name]["images"] == 2 * one_form[split][name]["images"]
            assert counts[split][name]["patients"] == one_form[split][name]["patients"]


@pytest.fixture(scope="module")
def compact(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    hyperparameters = replace(TINY, network="compact", ema_momentum=0.5, calibrated=True)
    return train_model(labelled, tmp_path_factory.mktemp("compact"), hyperparameters).folder


@pytest.mark.slow
def test_a_served_compact_network_gives_a_map_whose_mean_is_the_logit(compact: ModelFolder) -> None:
    images = model_writer.reference_images(160)
    said = networks.load_inference_model(compact).predict(images, verbose=0)
    assert set(said) == {"probability", "map"}
    assert said["map"].shape == (16, 10, 10, 1)
    assert said["map"].dtype == said["probability"].dtype == np.float32
    logits = said["map"].mean(axis=(1, 2, 3))
    np.testing.assert_allclose(said["probability"][:, 0], 1 / (1 + np.exp(-logits)), atol=1e-6)
    with np.load(compact.path / model_folder.REFERENCE, allow_pickle=False) as reference:
        np.testing.assert_allclose(reference["probabilities"], said["probability"][:, 0], atol=1e-6)


@pytest.mark.slow
def test_the_worker_serves_it(compact: ModelFolder) -> None:
    images = model_writer.reference_images(160)[..., 0]
    found = Classifier(compact, 16, "cpu").predict(images)
    assert found.maps is not None
    assert found.maps.shape == (16, 10, 10)


@pytest.mark.parametrize("which", ["compact", "trained"])
def test_a_model_is_restored_to_the_network_it_was_made_of(which: str, request: pytest.FixtureRequest) -> None:
    given = request.getfixturevalue(which)
    folder = given.folder if which == "trained" else given
    network = networks.restore_network(folder)
    assert network.output_shape == (None, 1)
    images = model_writer.reference_images(folder.side)
    with np.load(folder.path / model_folder.REFERENCE, allow_pickle=False) as reference:
        np.testing.assert_allclose(network.predict(images, verbose=0)[:, 0], reference["probabilities"], atol=1e-5)


@pytest.mark.slow
def test_a_model_with_a_gate_is_restored_without_it(compact: ModelFolder, labelled: Path, tmp_path: Path) -> None:
    images = dataset.read_dataset(labelled, 160)
    network = networks.restore_network(compact)
    learn, validation = images.examples("train").pixels, images.examples("validation").pixels
    fitted = gate.fit_gate(
        network, learn, validation, budget=gate.FitBudget(images=40, ood_samples=60, phantoms=2, epochs=1)
    )
    assert fitted is not None
    rest = {key: value for key, value in compact.card.items() if key not in ("version", "sha256", "history")}
    gated = model_writer.write_model(tmp_path, gate.gated_inference_model(network, fitted), rest | {"history": []})
    assert set(networks.load_inference_model(gated).output) == {"probability", "map", "gate_score"}
    again = networks.restore_network(gated)
    assert again.count_params() == network.count_params()
    drawn = model_writer.reference_images(160)
    np.testing.assert_allclose(again.predict(drawn, verbose=0), network.predict(drawn, verbose=0), atol=1e-6)


def test_a_model_of_another_network_is_not_restored(trained: TrainingResult) -> None:
    renamed = ModelFolder(trained.folder.path, trained.folder.card | {"network": "dense"})
    with pytest.raises(TrainingError, match="another dense"):
        networks.restore_network(renamed)


@pytest.mark.slow
def test_a_training_that_starts_from_a_model_begins_with_its_weights(compact: ModelFolder, labelled: Path) -> None:
    images = dataset.read_dataset(labelled, 160)
    learn, validation = images.examples("train"), images.examples("validation")
    start = networks.restore_network(compact)
    still = replace(TINY, network="compact", optimizer="sgd", learning_rate=0.0)
    ended = fit_network(learn, validation, still, start=start)
    for before, after, layer in zip(start.weights, ended.weights, ended.weights, strict=True):
        if "moving" not in layer.path:  # batch normalisation follows the images at any learning rate
            np.testing.assert_array_equal(before.numpy(), after.numpy())


def test_what_learned_in_half_precision_is_kept_in_float32(labelled: Path, tmp_path: Path) -> None:
    folder = train_model(labelled, tmp_path, replace(TINY, network="compact", precision="mixed_bfloat16")).folder
    served = networks.load_inference_model(folder)
    assert {layer.dtype_policy.name for layer in served.layers} == {"float32"}
    assert {weights.dtype for weights in served.get_weights()} == {np.dtype(np.float32)}
    assert folder.card["training"]["precision"] == "mixed_bfloat16"


@pytest.mark.slow
def test_a_trained_network_is_concluded_by_itself(compact: ModelFolder, labelled: Path, tmp_path: Path) -> None:
    images = dataset.read_dataset(labelled, 160)
    reviewed = {"validation": images.examples("validation"), "verdicts": images.examples("test")}
    hyperparameters = replace(TINY, network="compact")
    folder = finalize_model(
        networks.restore_network(compact), hyperparameters, images, card.UNSTATED, tmp_path, reviewed
    )
    assert set(folder.card["metrics"]) == {"validation", "verdicts"}
    assert folder.path == tmp_path / folder.version


def test_batches_go_through_all_images_again_and_again() -> None:
    batches = list(itertools.islice(shuffled_batches(7, 3, seed=1), 7))
    assert {len(batch) for batch in batches} == {3}
    seen = np.concatenate(batches)
    for start in (0, 7, 14):
        assert sorted(seen[start : start + 7]) == list(range(7))
    assert seen[:7].tolist() != seen[7:14].tolist()
    assert np.array_equal(seen, np.concatenate(list(itertools.islice(shuffled_batches(7, 3, seed=1), 7))))


def test_data_that_cannot_teach_is_refused_before_training(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", range(1, 7))  # by the rule of the split none of these is for validation
    with pytest.raises(TrainingError, match="No validation patient"):
        train_model(folder, tmp_path / "models", TINY)
    for path in (folder / "NORMAL").iterdir():
        path.write_bytes(b"")
    with pytest.raises(TrainingError, match="NORMAL holds no image"):
        train_model(folder, tmp_path / "models", TINY)
    assert not (tmp_path / "models").exists()


def run(*arguments: object) -> str:
    app = typer.Typer()
    app.command()(train.train)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


@pytest.mark.slow
def test_the_command_prints_json_for_scripts(labelled: Path, tmp_path: Path) -> None:
    options = ("--epochs", 1, "--steps", 1, "--seed", 3, "--patience", 4, "--report", tmp_path / "pages", "--json")
    report = json.loads(run(labelled, tmp_path, *options))
    page = Path(report["report"])
    assert page == tmp_path / "pages" / f"evaluation-{report['version']}.html"
    assert f"Evaluation of {report['version']}" in page.read_text("utf-8")
    assert ModelFolder.read(Path(report["path"])).card["training"]["patience"] == 4
    assert ModelFolder.read(Path(report["path"])).card["training"]["seed"] == 3
    assert set(report["metrics"]) == {"validation", "test"}
    assert [Path(one["path"]).name for one in report["left_out"]] == ["IM-0099-0001.jpeg"]


def test_the_command_prints_figures_with_intervals(
    trained: TrainingResult, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "trainer.train.train_model", lambda *_: trained
    )  # printing is tested here; the run above is real
    told = run(labelled, tmp_path)
    assert "Test patients, full-size images" in told
    assert all(measure in told for measure in MEASURES)
    assert "1 files could not be read" in told
    assert str(trained.folder.path) in told


def test_an_unknown_precision_is_refused_before_images_are_read(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no precision 'float8'"):
        run(tmp_path / "nothing", tmp_path, "--precision", "float8")


def test_an_unknown_network_is_refused(labelled: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no network 'resnet'"):
        run(labelled, tmp_path, "--network", "resnet")
