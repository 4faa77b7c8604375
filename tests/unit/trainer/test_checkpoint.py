"""A run that is killed and resumed gives the same result as one that was never killed."""

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pneumowatch.errors import TrainingError
from trainer import networks
from trainer.checkpoint import Checkpoint, run_fingerprint
from trainer.dataset import Examples
from trainer.hyperparameters import Hyperparameters
from trainer.train import TrainingProgress, fit_network

HYPERPARAMETERS = Hyperparameters(
    network="compact", optimizer="adamw", weight_decay=1e-3, schedule="cosine", ema_momentum=0.5, batch_size=4,
    steps_per_epoch=2, epochs=4, augmented=True, mixup=0.2, label_smoothing=0.04, patience=4,
)  # fmt: skip
# On two cores both runs were equal to the last bit. Where threads add up gradients in an order of their own, a last
# digit may differ, and AdamW's first steps are as long for a tiny gradient as for a large one.
TOLERANCE = 1e-5

KILLED = f"""
import os, signal
from trainer.hyperparameters import Hyperparameters
from trainer.train import fit_network
from {Path(__file__).stem} import examples

def watch(at):
    if (at.epoch, at.step) == (3, 1):
        os.kill(os.getpid(), signal.SIGKILL)

def main(unfinished):
    fit_network(examples(1, 24), examples(2, 8), {HYPERPARAMETERS!r}, watch, unfinished=unfinished)
"""


def examples(seed: int, count: int) -> Examples:
    """Return noise, brighter and of another grain where ill."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % 2).astype(np.float32)
    grain = np.where(labels == 1, 40, 20)[:, None, None, None]
    images = rng.normal(110, 1, (count, 160, 160, 1)) + grain * rng.standard_normal((count, 160, 160, 1))
    return Examples(images.clip(0, 255).astype(np.uint8), labels, np.array([f"patient {i}" for i in range(count)]))


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a run that was killed in its third epoch."""
    unfinished = tmp_path_factory.mktemp("killed") / "run.npz"
    code = KILLED + f"\nimport pathlib; main(pathlib.Path({str(unfinished)!r}))"
    here = Path(__file__).parent
    paths = f"import sys; sys.path[:0] = [{str(here)!r}, {str(here.parents[2])!r}]\n"
    ended = subprocess.run([sys.executable, "-c", paths + code], timeout=300, check=False)
    assert ended.returncode == -signal.SIGKILL
    return unfinished


def taught(
    seen: list[TrainingProgress],
    hyperparameters: Hyperparameters = HYPERPARAMETERS,
    unfinished: Path | None = None,
    start: Any = None,
) -> Any:
    return fit_network(examples(1, 24), examples(2, 8), hyperparameters, seen.append, start, unfinished)


@pytest.mark.slow
def test_a_killed_run_ends_with_the_weights_of_one_that_was_not(killed: Path) -> None:
    whole, rest = list[TrainingProgress](), list[TrainingProgress]()
    expected = taught(whole)
    found = taught(rest, unfinished=killed)
    assert rest[0].note == "An unfinished run resumes after its epoch 2."
    assert [(at.epoch, at.step) for at in rest if not at.epoch_ended and not at.note] == [
        (3, 1),
        (3, 2),
        (4, 1),
        (4, 2),
    ]
    ended, told = [at for at in whole if at.epoch_ended], [at for at in rest if at.epoch_ended]
    assert [at.epoch for at in ended] == [at.epoch for at in told] == [1, 2, 3, 4]
    for one, other in zip(ended, told, strict=True):
        assert one.loss == pytest.approx(other.loss, abs=TOLERANCE)
        assert one.validation_loss == pytest.approx(other.validation_loss, abs=TOLERANCE)
    for one, other in zip(expected.get_weights(), found.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=TOLERANCE)


def test_a_run_of_other_hyperparameters_begins_anew_and_says_so(killed: Path) -> None:
    seen = list[TrainingProgress]()
    taught(seen, replace(HYPERPARAMETERS, seed=2, epochs=1, steps_per_epoch=1), killed)
    assert "discarded" in seen[0].note
    assert [(at.epoch, at.step) for at in seen[1:]] == [(1, 1), (1, 1)]


def test_other_images_labels_hyperparameters_or_weights_are_another_run() -> None:
    learn, validation = examples(1, 4), examples(2, 4)
    relabelled = replace(learn, labels=1 - learn.labels)
    found = {
        run_fingerprint(learn, validation, HYPERPARAMETERS, None),
        run_fingerprint(validation, learn, HYPERPARAMETERS, None),
        run_fingerprint(relabelled, validation, HYPERPARAMETERS, None),
        run_fingerprint(learn, validation, replace(HYPERPARAMETERS, epochs=5), None),
    }
    assert len(found) == 4
    assert run_fingerprint(examples(1, 4), validation, HYPERPARAMETERS, None) in found


def test_what_is_damaged_is_not_read(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "new" / "run.npz", "a")
    assert checkpoint.read() is None
    arrays = [np.arange(6, dtype=np.float32), np.zeros((2, 3), np.int64)]
    checkpoint.write([{"epoch": 1, "loss": float("nan")}], arrays)
    epochs, read = checkpoint.read() or ([], [])
    assert epochs[0]["epoch"] == 1
    assert np.isnan(epochs[0]["loss"])
    assert all(np.array_equal(one, other) and one.dtype == other.dtype for one, other in zip(arrays, read, strict=True))
    assert [path.name for path in checkpoint.path.parent.iterdir()] == ["run.npz"]
    assert Checkpoint(checkpoint.path, "b").read() is None
    whole = checkpoint.path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[:-1], b"\x00" * 100):
        checkpoint.path.write_bytes(damaged)
        assert checkpoint.read() is None


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(TrainingError, match="unfinished run cannot be saved"):
        Checkpoint(tmp_path / "file" / "run.npz", "a").write([], [])


def test_patience_ends_a_run_with_its_best_weights() -> None:
    """At a learning rate of 0 no epoch is better than the first."""
    seen = list[TrainingProgress]()
    hyperparameters = Hyperparameters(
        network="dense", optimizer="sgd", learning_rate=0.0, batch_size=4, steps_per_epoch=1, epochs=9, patience=3
    )
    small = [replace(one, pixels=one.pixels[:, :150, :150]) for one in (examples(1, 8), examples(2, 8))]
    fit_network(*small, hyperparameters, seen.append)
    assert [at.epoch for at in seen if at.epoch_ended] == [1, 2, 3, 4]


def test_the_best_weights_are_kept_not_the_last() -> None:
    """The learning rate is too high: validation gets worse after the first epoch."""
    seen = list[TrainingProgress]()
    hyperparameters = Hyperparameters(
        network="dense",
        optimizer="sgd",
        learning_rate=0.5,
        batch_size=4,
        steps_per_epoch=1,
        epochs=9,
        patience=2,
        seed=3,
    )
    learn, unseen = (replace(one, pixels=one.pixels[:, :150, :150]) for one in (examples(1, 8), examples(2, 8)))
    taught_wrongly = replace(learn, labels=1 - learn.labels)
    network = fit_network(taught_wrongly, unseen, hyperparameters, seen.append)
    losses = [at.validation_loss for at in seen if at.epoch_ended]
    said = np.clip(network.predict(unseen.pixels, verbose=0)[:, 0], 1e-7, 1 - 1e-7)
    loss = -np.log(np.where(unseen.labels == 1, said, 1 - said)).mean()
    assert len(losses) == 1 + int(np.argmin(losses)) + 2
    assert loss == pytest.approx(min(losses), abs=1e-4)


def test_the_validation_figures_are_those_of_the_averaged_weights() -> None:
    seen = list[TrainingProgress]()
    hyperparameters = replace(HYPERPARAMETERS, epochs=2, patience=0)
    network = taught(seen, hyperparameters)
    unseen = examples(2, 8)
    said = network.predict(unseen.pixels, verbose=0)[:, 0].astype(float)
    loss = -np.log(np.where(unseen.labels == 1, said, 1 - said)).mean()
    assert seen[-1].validation_loss == pytest.approx(loss, abs=1e-5)


def test_a_loss_that_is_no_number_ends_the_run() -> None:
    lost = networks.build("dense")
    lost.set_weights([weights * np.nan for weights in lost.get_weights()])
    small = [replace(one, pixels=one.pixels[:, :150, :150]) for one in (examples(1, 8), examples(2, 8))]
    with pytest.raises(TrainingError, match="learning rate is too high"):
        fit_network(
            *small,
            Hyperparameters(network="dense", optimizer="sgd", batch_size=4, steps_per_epoch=1, epochs=1),
            start=lost,
        )
