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
LOGIT_EPSILON: Final = 1e-6  # probabilities nearer to certainty have no logit worth fitting
EPOCH_METRICS: Final = ("epoch", "loss", "validation_loss", "validation_accuracy")

BatchIterator = Iterator[tuple[Pixels, NDArray[np.float32]]]


@dataclass(frozen=True)
class TrainingProgress:
    """Where a run stands after a step; the validation figures are those of the last whole epoch, NaN before it, and of
    the weights that would be kept: the running mean where there is one."""

    epoch: int  # from 1
    step: int  # from 1, within the epoch
    loss: float  # mean of this epoch so far
    validation_loss: float = np.nan
    validation_accuracy: float = np.nan  # at 0.5, as the threshold is chosen at the end
    epoch_ended: bool = False  # the epoch is over, and the validation figures are its own
    note: str = ""  # one sentence for people, before the first step: where the run begins


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

    A run that is killed is taken up after its last whole epoch by the same call, and gives the same model.

    Args:
        data: a folder with NORMAL and PNEUMONIA.
        full_size_folder: another such folder, of films as they arrive, in full size. It may hold the same films as `data` in their
            other form: both forms are learned from, the threshold is chosen on both, and those of test patients are
            evaluated apart, as `test_full_size`.
        description: what is known of `data`, for the card (`card.read_data_description`).
        on_progress: called after every step and every epoch; of a run that is taken up, with its former epochs first.
        teachers: whose word replaces the labels of what is learned from (`trainer.distillation`).
        start: a model of the same network, whose weights are begun with.
        patient_rule: how patients are told apart.

    Raises:
        TrainingError: the data or the knobs cannot be used, or the model cannot be written.
    """
    known = card.read_data_description(description)
    networks.choose_precision(hyperparameters.precision)  # what cannot be is said before the films are read
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
    """Views of the training patients' films, with what the teachers say of them."""
    teachers = [distillation.load_teacher(folder) for folder in folders]
    largest = max(teacher.side for teacher in teachers)
    images = reduce(operator.add, [dataset.read_dataset(folder, largest, patient_rule) for folder in data])

    def tell(done: int, of: int) -> None:
        if done * 10 // of > max(done - distillation.VIEW_BATCH, 0) * 10 // of:
            on_progress(TrainingProgress(0, 0, np.nan, note=f"The teachers have labelled {done:,} of {of:,} views."))

    return distillation.labelled_views(
        images.examples("train"),
        teachers,
        side,
        hyperparameters.views,
        hyperparameters.seed,
        hyperparameters.weak_share,
        tell,
    )


def fit_network(
    training_set: Examples,
    validation: Examples,
    hyperparameters: Hyperparameters,
    on_progress: ProgressCallback = lambda _: None,
    start: Any = None,
    unfinished: Path | None = None,
) -> Any:
    """A trained `keras.Model` as `networks.build` builds it, uncompiled: what is saved carries no optimizer state.

    Args:
        start: such a model, whose weights are begun with (`networks.restore_network`); None for random ones.
        unfinished: a file in which the run is kept after each epoch and taken up from where it was killed, if films,
            knobs and start are the same. Whoever names it removes it when the model is safe.

    Raises:
        TrainingError: the knobs cannot be used, the loss is no number any more, or `unfinished` cannot be written.
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
    """Make a served model of a trained one: calibrate it, in its own weights; choose the threshold; evaluate; write
    `out`/<version>.

    Args:
        images: all that there were, for the card.
        description: what is known of them (`card.read_data_description`).
        evaluation_sets: what it is evaluated on, by the name that the card gives it; on `validation` it is calibrated and its
            threshold chosen.
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
    """The next epoch, of which the last standing is returned and not yet told."""
    at = replace(ended[-1], epoch_ended=False) if ended else TrainingProgress(0, 0, np.nan)
    losses: list[float] = []
    for step in range(1, hyperparameters.steps_per_epoch + 1):
        losses.append(learner.train_step(*next(batches)))
        if not np.isfinite(losses[-1]):
            raise TrainingError("The loss is no number any more: the learning rate is too high for these films.")
        at = replace(at, epoch=len(ended) + 1, step=step, loss=float(np.mean(losses)))
        on_progress(at)
    learner.sync_weights()
    unseen, accuracy = _loss_and_accuracy(validation.labels, learner.probabilities(validation.pixels))
    return replace(at, validation_loss=unseen, validation_accuracy=accuracy, epoch_ended=True)


def _resume(saved: Checkpoint, learner: Student, on_progress: ProgressCallback) -> list[TrainingProgress]:
    """The epochs of an unfinished run, whose weights the learner gets."""
    found = saved.read()
    if found is None:
        if saved.path.exists():
            note = "An unfinished run of other films, knobs or versions, or one that cannot be read, is given up."
            on_progress(TrainingProgress(0, 0, np.nan, note=note))
        return []
    epochs, arrays = found
    learner.restore_state(arrays)
    on_progress(TrainingProgress(0, 0, np.nan, note=f"An unfinished run is taken up after its epoch {len(epochs)}."))
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
    """Bend the network's logits as the validation patients' films surprise it least (Platt, 1999), in its last weights:
    divided by a temperature, and shifted. Returns both. Running means of weights see films a little darker or lighter
    than the steps did, so a temperature alone does not do.

    The film's logit is the mean of those of its places, or the only one, so that either is shifted by a bias.
    """
    predicted = np.clip(example_probabilities(model, validation), LOGIT_EPSILON, 1 - LOGIT_EPSILON)
    logits, ill = np.log(predicted / (1 - predicted)), validation.labels == 1

    def surprise(temperature: float, shift: NDArray[np.float64]) -> NDArray[np.float64]:
        bent = logits / temperature + shift[:, np.newaxis]
        found: NDArray[np.float64] = np.logaddexp(0, np.where(ill, -bent, bent)).mean(axis=1)
        return found

    found = np.array([surprise(temperature, SHIFTS) for temperature in TEMPERATURES])
    row, column = np.unravel_index(int(np.argmin(found)), found.shape)
    temperature, shift = float(TEMPERATURES[row]), float(SHIFTS[column])
    last = model.get_layer(networks.LOGIT_LAYER)
    kernel, bias = last.get_weights()
    last.set_weights([kernel / temperature, bias / temperature + shift])
    return temperature, shift


def example_probabilities(model: Any, examples: Examples) -> NDArray[np.float64]:
    """Of pneumonia, shape (n,)."""
    return student.predict_probabilities(model, examples.pixels)


def evaluate_examples(model: Any, examples: Examples, threshold: float) -> dict[str, Estimate]:
    return estimate_metrics(examples.labels, example_probabilities(model, examples), examples.patients, threshold)


def _loss_and_accuracy(labels: NDArray[np.float32], probability: NDArray[np.float64]) -> tuple[float, float]:
    right = np.clip(np.where(labels == 1, probability, 1 - probability), 1e-7, 1)  # Keras' own bound
    return float(-np.log(right).mean()), float(((probability >= 0.5) == labels).mean())


def _check(training_set: Examples, validation: Examples) -> None:
    if not 0 < training_set.labels.mean() < 1:
        raise TrainingError("The training patients need films of both classes; add films of more patients.")
    if not validation.labels.any():
        raise TrainingError(
            "No validation patient has a film with pneumonia to choose a threshold by; add films of more patients."
        )
