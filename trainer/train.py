"""One training run, from a labelled folder to a model folder, top to bottom."""

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pneumowatch.errors import TrainingError
from pneumowatch.imaging.reader import Pixels
from pneumowatch.model_folder import ModelFolder
from trainer import card, dataset, distillation, model_writer, networks, student
from trainer.checkpoint import Checkpoint, run_fingerprint
from trainer.dataset import KERMANY_RULE, Dataset, Examples, LeftOut, PatientIdRule
from trainer.evaluation import drift_reference
from trainer.evaluation.metrics import Estimate, estimate_metrics, threshold_for
from trainer.hyperparameters import Hyperparameters
from trainer.input_gate import gate
from trainer.student import Student
from trainer.training_batches import augmented_batches

TEMPERATURES: Final = np.geomspace(0.2, 5, 161)
SHIFTS: Final = np.linspace(-4, 4, 161)
LOGIT_EPSILON: Final = (
    1e-6  # probabilities are clipped to this distance from 0 and 1: their logits are not worth fitting
)
EPOCH_METRICS: Final = ("epoch", "loss", "validation_loss", "validation_accuracy")

BatchIterator = Iterator[tuple[Pixels, NDArray[np.float32]]]


@dataclass(frozen=True)
class TrainingProgress:
    """Progress of a run after a step.

    The validation figures are those of the last whole epoch, NaN before it, and of the weights that would be kept: the
    running mean where there is one.
    """

    epoch: int  # from 1
    step: int  # from 1, within the epoch
    loss: float  # mean of this epoch so far
    validation_loss: float = np.nan
    validation_accuracy: float = np.nan  # at 0.5, because the threshold is chosen at the end
    epoch_ended: bool = False  # the epoch is over, and the validation figures are its own
    note: str = ""  # one sentence for people, before the first step: where the run starts


ProgressCallback = Callable[[TrainingProgress], None]


@dataclass(frozen=True)
class TrainingResult:
    folder: ModelFolder
    left_out: tuple[LeftOut, ...]  # files of the training folder and of `full_size_folder` that could not be read
    dataset: Dataset  # of the training folder, without `full_size_folder`


def train_model(
    data: Path,
    out: Path,
    hyperparameters: Hyperparameters,
    full_size_folder: Path | None = None,
    description: Path | None = None,
    on_progress: ProgressCallback = lambda _: None,
    teachers: Sequence[ModelFolder] = (),
    start: ModelFolder | None = None,
    patient_rule: PatientIdRule = KERMANY_RULE,
) -> TrainingResult:
    """Train, choose the threshold, evaluate, and write `out`/<version>.

    After a kill, the same call resumes after the last whole epoch and gives the same model.

    Args:
        data: a folder with NORMAL and PNEUMONIA.
        full_size_folder: another such folder, of images as they arrive, in full size. It may hold the same images as
            `data` in their other form. Both forms are trained on, and the threshold is chosen on both; those of test
            patients are evaluated separately, as `test_full_size`.
        description: what is known of `data`, for the card (`card.read_data_description`).
        on_progress: called after every step and every epoch; a resumed run first reports its former epochs.
        teachers: models whose outputs replace the labels in training (`trainer.distillation`).
        start: a model of the same network, whose weights training starts from.
        patient_rule: how patients are identified.

    Raises:
        TrainingError: the data or the hyperparameters cannot be used, or the model cannot be written.
    """
    known = card.read_data_description(description)
    networks.choose_precision(hyperparameters.precision)  # fails before the images are read, which takes long
    side = networks.get_network(hyperparameters.network).side
    images = small = dataset.read_dataset(data, side, patient_rule)
    evaluation_sets = {}
    if full_size_folder:
        full_size = dataset.read_dataset(full_size_folder, side, patient_rule)
        images = small + full_size
        evaluation_sets["test_full_size"] = images.examples("test", full_size)
    training_set, validation = images.examples("train"), images.examples("validation")
    if teachers:
        training_set = _distillation_examples(
            (data, full_size_folder) if full_size_folder else (data,),
            side,
            patient_rule,
            hyperparameters,
            teachers,
            on_progress,
        )
    evaluation_sets = {"validation": validation, "test": images.examples("test", small), **evaluation_sets}
    _check(training_set, validation)

    initial = networks.restore_network(start) if start else networks.pretrained_network(hyperparameters.network)
    ended: list[TrainingProgress] = []
    unfinished = out / f".unfinished-{hyperparameters.network}.npz"
    model = fit_network(training_set, validation, hyperparameters, _recording(on_progress, ended), initial, unfinished)
    folder = finalize_model(model, hyperparameters, images, known, out, evaluation_sets, ended)
    unfinished.unlink(missing_ok=True)
    return TrainingResult(folder, images.left_out, small)


def _distillation_examples(
    data: Sequence[Path],
    side: int,
    patient_rule: PatientIdRule,
    hyperparameters: Hyperparameters,
    folders: Sequence[ModelFolder],
    on_progress: ProgressCallback,
) -> Examples:
    """Make views of the training patients' images, labelled by the teachers."""
    teachers = [distillation.load_teacher(folder) for folder in folders]
    largest = max(teacher.side for teacher in teachers)
    images = reduce(operator.add, [dataset.read_dataset(folder, largest, patient_rule) for folder in data])

    def report(done: int, of: int) -> None:
        if done * 10 // of > max(done - distillation.VIEW_BATCH, 0) * 10 // of:
            on_progress(TrainingProgress(0, 0, np.nan, note=f"The teachers have labelled {done:,} of {of:,} views."))

    return distillation.labelled_views(
        images.examples("train"),
        teachers,
        side,
        hyperparameters.views,
        hyperparameters.seed,
        hyperparameters.weak_share,
        report,
    )


def fit_network(
    training_set: Examples,
    validation: Examples,
    hyperparameters: Hyperparameters,
    on_progress: ProgressCallback = lambda _: None,
    start: Any = None,
    unfinished: Path | None = None,
) -> Any:
    """Train a network and return it as a `keras.Model`, as `networks.build` builds it.

    It is uncompiled: what is saved carries no optimizer state.

    Args:
        start: such a model, whose weights training starts from (`networks.restore_network`); None for random ones.
        unfinished: a file in which the run is saved after each epoch. After a kill the run resumes from it, if images,
            hyperparameters and start are the same. The caller removes it once the model is saved.

    Raises:
        TrainingError: the hyperparameters cannot be used, the loss is not finite any more, or `unfinished` cannot be
            written.
    """
    learner = Student(hyperparameters, start)
    saved = (
        Checkpoint(unfinished, run_fingerprint(training_set, validation, hyperparameters, start))
        if unfinished
        else None
    )
    ended = _resume(saved, learner, on_progress) if saved else []
    batches = augmented_batches(training_set, hyperparameters, len(ended) * hyperparameters.steps_per_epoch)
    while len(ended) < hyperparameters.epochs and not _stops_early(ended, hyperparameters.patience):
        at = _run_epoch(learner, batches, validation, hyperparameters, ended, on_progress)
        if hyperparameters.patience and not any(before.validation_loss <= at.validation_loss for before in ended):
            learner.save_best()
        ended.append(at)
        if saved:
            saved.write([asdict(one) for one in ended], learner.state_arrays())
        on_progress(at)
    return learner.export()


def finalize_model(
    model: Any,
    hyperparameters: Hyperparameters,
    images: Dataset,
    description: dict[str, Any],
    out: Path,
    evaluation_sets: dict[str, Examples],
    history: Sequence[TrainingProgress] = (),
) -> ModelFolder:
    """Make a served model of a trained one, and write it to `out`/<version>.

    Calibrate it in its own weights, fit its gate, choose the threshold, and evaluate it.

    Args:
        images: all images of the run, for the card.
        description: what is known of them (`card.read_data_description`).
        evaluation_sets: what it is evaluated on, by the name that the card gives it. On `validation` it is also
            calibrated, and its threshold is chosen.
        history: the ended epochs.

    Raises TrainingError where it cannot be written.
    """
    validation, model = evaluation_sets["validation"], networks.fold_batch_norms(model)
    if hyperparameters.calibrated:
        calibrate(model, validation)
    fitted = (
        gate.fit_gate(model, images.examples("train").pixels, validation.pixels, hyperparameters.seed)
        if hyperparameters.gated
        else None
    )
    served = gate.gated_inference_model(model, fitted)
    predicted = example_probabilities(served, validation)
    threshold = threshold_for(validation.labels, predicted, validation.patients, hyperparameters.target_sensitivity)
    metrics = {name: evaluate_examples(served, examples, threshold) for name, examples in evaluation_sets.items()}
    written = card.build_card(
        served, hyperparameters, images, description, threshold, metrics, [_epoch_metrics(one) for one in history]
    )
    written["reference"] = drift_reference.build_reference(served, validation.pixels)
    return model_writer.write_model(out, served, written)


def _run_epoch(
    learner: Student,
    batches: BatchIterator,
    validation: Examples,
    hyperparameters: Hyperparameters,
    ended: Sequence[TrainingProgress],
    on_progress: ProgressCallback,
) -> TrainingProgress:
    """Run the next epoch and return its last progress, which the caller reports."""
    at = replace(ended[-1], epoch_ended=False) if ended else TrainingProgress(0, 0, np.nan)
    losses: list[float] = []
    for step in range(1, hyperparameters.steps_per_epoch + 1):
        losses.append(learner.train_step(*next(batches)))
        if not np.isfinite(losses[-1]):
            raise TrainingError(
                "The loss is not a finite number any more: the learning rate is too high for these images."
            )
        at = replace(at, epoch=len(ended) + 1, step=step, loss=float(np.mean(losses)))
        on_progress(at)
    learner.sync_weights()
    unseen, accuracy = _loss_and_accuracy(validation.labels, learner.probabilities(validation.pixels))
    return replace(at, validation_loss=unseen, validation_accuracy=accuracy, epoch_ended=True)


def _resume(saved: Checkpoint, learner: Student, on_progress: ProgressCallback) -> list[TrainingProgress]:
    """Restore the learner from an unfinished run and return the ended epochs."""
    found = saved.read()
    if found is None:
        if saved.path.exists():
            note = "An unfinished run is discarded: it is damaged, or of other images, hyperparameters or versions."
            on_progress(TrainingProgress(0, 0, np.nan, note=note))
        return []
    epochs, arrays = found
    learner.restore_state(arrays)
    on_progress(TrainingProgress(0, 0, np.nan, note=f"An unfinished run resumes after its epoch {len(epochs)}."))
    ended = [TrainingProgress(**epoch) for epoch in epochs]
    for at in ended:
        on_progress(at)
    return ended


def _stops_early(ended: Sequence[TrainingProgress], patience: int) -> bool:
    losses = [at.validation_loss for at in ended]
    return bool(patience and losses) and len(losses) - 1 - int(np.argmin(losses)) >= patience


def _recording(on_progress: ProgressCallback, ended: list[TrainingProgress]) -> ProgressCallback:
    def noting(at: TrainingProgress) -> None:
        if at.epoch_ended:
            ended.append(at)
        on_progress(at)

    return noting


def _epoch_metrics(at: TrainingProgress) -> dict[str, float]:
    of = asdict(at)
    return {name: of[name] for name in EPOCH_METRICS}


def calibrate(model: Any, validation: Examples) -> tuple[float, float]:
    """Calibrate the network on the validation patients' images, in its last weights (Platt, 1999).

    The logits are divided by a temperature and shifted, so that the mean log loss is lowest. Returns both. A
    temperature alone is not enough: running means of weights see images a little darker or lighter than the steps did.

    The image's logit is the mean of those of its cells, or the only one; a bias shifts either.
    """
    predicted = np.clip(example_probabilities(model, validation), LOGIT_EPSILON, 1 - LOGIT_EPSILON)
    logits, ill = np.log(predicted / (1 - predicted)), validation.labels == 1

    def log_loss(temperature: float, shift: NDArray[np.float64]) -> NDArray[np.float64]:
        scaled = logits / temperature + shift[:, np.newaxis]
        found: NDArray[np.float64] = np.logaddexp(0, np.where(ill, -scaled, scaled)).mean(axis=1)
        return found

    found = np.array([log_loss(temperature, SHIFTS) for temperature in TEMPERATURES])
    row, column = np.unravel_index(int(np.argmin(found)), found.shape)
    temperature, shift = float(TEMPERATURES[row]), float(SHIFTS[column])
    last = model.get_layer(networks.LOGIT_LAYER)
    kernel, bias = last.get_weights()
    last.set_weights([kernel / temperature, bias / temperature + shift])
    return temperature, shift


def example_probabilities(model: Any, examples: Examples) -> NDArray[np.float64]:
    """Predict probabilities of pneumonia, shape (n,)."""
    return student.predict_probabilities(model, examples.pixels)


def evaluate_examples(model: Any, examples: Examples, threshold: float) -> dict[str, Estimate]:
    return estimate_metrics(examples.labels, example_probabilities(model, examples), examples.patients, threshold)


def _loss_and_accuracy(labels: NDArray[np.float32], probability: NDArray[np.float64]) -> tuple[float, float]:
    right = np.clip(np.where(labels == 1, probability, 1 - probability), 1e-7, 1)  # Keras' own bound
    return float(-np.log(right).mean()), float(((probability >= 0.5) == labels).mean())


def _check(training_set: Examples, validation: Examples) -> None:
    if not 0 < training_set.labels.mean() < 1:
        raise TrainingError("The training patients need images of both classes; add images of more patients.")
    if not validation.labels.any():
        raise TrainingError(
            "No validation patient has an image with pneumonia to choose a threshold by; add images of more patients."
        )
