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
from pneumowatch.film import Pixels
from pneumowatch.model import ModelFolder
from trainer import card, dataset, distil, gate, networks, pupil, reference, store
from trainer.checkpoint import Checkpoint, fingerprint
from trainer.dataset import OF_KERMANY, Dataset, Examples, LeftOut, Naming
from trainer.evaluate import Figure, figures, threshold_for
from trainer.knobs import Knobs
from trainer.lessons import lessons
from trainer.pupil import Pupil

TEMPERATURES: Final = np.geomspace(0.2, 5, 161)
SHIFTS: Final = np.linspace(-4, 4, 161)
EDGE: Final = 1e-6  # probabilities nearer to certainty have no logit worth fitting
EPOCH_FIGURES: Final = ("epoch", "loss", "validation_loss", "validation_accuracy")

Lessons = Iterator[tuple[Pixels, NDArray[np.float32]]]


@dataclass(frozen=True)
class Standing:
    """Where a run stands after a step; the validation figures are those of the last whole epoch, NaN before it, and of
    the weights that would be kept: the running mean where there is one."""

    epoch: int  # from 1
    step: int  # from 1, within the epoch
    loss: float  # mean of this epoch so far
    validation_loss: float = np.nan
    validation_accuracy: float = np.nan  # at 0.5, as the threshold is chosen at the end
    ended: bool = False  # the epoch is over, and the validation figures are its own
    note: str = ""  # one sentence for people, before the first step: where the run begins


Watch = Callable[[Standing], None]


@dataclass(frozen=True)
class Trained:
    folder: ModelFolder
    left_out: tuple[LeftOut, ...]  # files of the training folder and of `also` that could not be read
    films: Dataset  # of the training folder, without `also`


def train(
    data: Path,
    out: Path,
    knobs: Knobs,
    also: Path | None = None,
    about: Path | None = None,
    watch: Watch = lambda _: None,
    teachers: Sequence[ModelFolder] = (),
    start: ModelFolder | None = None,
    naming: Naming = OF_KERMANY,
) -> Trained:
    """Train, choose the threshold, evaluate, and write `out`/<version>.

    A run that is killed is taken up after its last whole epoch by the same call, and gives the same model.

    Args:
        data: a folder with NORMAL and PNEUMONIA.
        also: another such folder, of films as they arrive, in full size. It may hold the same films as `data` in their
            other form: both forms are learned from, the threshold is chosen on both, and those of test patients are
            evaluated apart, as `test_full_size`.
        about: what is known of `data`, for the card (`card.read_about`).
        watch: called after every step and every epoch; of a run that is taken up, with its former epochs first.
        teachers: whose word replaces the labels of what is learned from (`trainer.distil`).
        start: a model of the same network, whose weights are begun with.
        naming: how patients are told apart.

    Raises:
        TrainingError: the data or the knobs cannot be used, or the model cannot be written.
    """
    known = card.read_about(about)
    networks.choose_precision(knobs.precision)  # what cannot be is said before the films are read
    side = networks.find(knobs.network).side
    films = small = dataset.read(data, side, naming)
    judged = {}
    if also:
        full_size = dataset.read(also, side, naming)
        films = small + full_size
        judged["test_full_size"] = films.examples("test", full_size)
    learn, validation = films.examples("train"), films.examples("validation")
    if teachers:
        learn = _taught((data, also) if also else (data,), side, naming, knobs, teachers, watch)
    judged = {"validation": validation, "test": films.examples("test", small), **judged}
    _check(learn, validation)

    begun = networks.restore(start) if start else networks.begin(knobs.network)
    ended: list[Standing] = []
    unfinished = out / f".unfinished-{knobs.network}.npz"
    model = fit(learn, validation, knobs, _noting(watch, ended), begun, unfinished)
    folder = conclude(model, knobs, films, known, out, judged, ended)
    unfinished.unlink(missing_ok=True)
    return Trained(folder, films.left_out, small)


def _taught(
    data: Sequence[Path], side: int, naming: Naming, knobs: Knobs, folders: Sequence[ModelFolder], watch: Watch
) -> Examples:
    """Views of the training patients' films, with what the teachers say of them."""
    teachers = [distil.teacher(folder) for folder in folders]
    largest = max(teacher.side for teacher in teachers)
    films = reduce(operator.add, [dataset.read(folder, largest, naming) for folder in data])

    def tell(done: int, of: int) -> None:
        if done * 10 // of > max(done - distil.BATCH, 0) * 10 // of:
            watch(Standing(0, 0, np.nan, note=f"The teachers have labelled {done:,} of {of:,} views."))

    return distil.views(films.examples("train"), teachers, side, knobs.views, knobs.seed, knobs.near, tell)


def fit(
    learn: Examples,
    validation: Examples,
    knobs: Knobs,
    watch: Watch = lambda _: None,
    start: Any = None,
    unfinished: Path | None = None,
) -> Any:
    """A trained `keras.Model` as `networks.build` builds it, uncompiled: what is saved carries no optimizer state.

    Args:
        start: such a model, whose weights are begun with (`networks.restore`); None for random ones.
        unfinished: a file in which the run is kept after each epoch and taken up from where it was killed, if films,
            knobs and start are the same. Whoever names it removes it when the model is safe.

    Raises:
        TrainingError: the knobs cannot be used, the loss is no number any more, or `unfinished` cannot be written.
    """
    learner = Pupil(knobs, start)
    saved = Checkpoint(unfinished, fingerprint(learn, validation, knobs, start)) if unfinished else None
    ended = _take_up(saved, learner, watch) if saved else []
    batches = lessons(learn, knobs, len(ended) * knobs.steps)
    while len(ended) < knobs.epochs and not _no_longer_better(ended, knobs.patience):
        at = _epoch(learner, batches, validation, knobs, ended, watch)
        if knobs.patience and not any(before.validation_loss <= at.validation_loss for before in ended):
            learner.remember()
        ended.append(at)
        if saved:
            saved.write([asdict(one) for one in ended], learner.arrays())
        watch(at)
    return learner.graduate()


def conclude(
    model: Any,
    knobs: Knobs,
    films: Dataset,
    about: dict[str, Any],
    out: Path,
    judged: dict[str, Examples],
    history: Sequence[Standing] = (),
) -> ModelFolder:
    """Make a served model of a trained one: calibrate it, in its own weights; choose the threshold; evaluate; write
    `out`/<version>.

    Args:
        films: all that there were, for the card.
        about: what is known of them (`card.read_about`).
        judged: what it is evaluated on, by the name that the card gives it; on `validation` it is calibrated and its
            threshold chosen.
        history: the ended epochs.

    Raises TrainingError where it cannot be written.
    """
    validation, model = judged["validation"], networks.folded(model)
    if knobs.calibrated:
        calibrate(model, validation)
    fitted = gate.fit(model, films.examples("train").pixels, validation.pixels, knobs.seed) if knobs.gated else None
    served = gate.served(model, fitted)
    said = probabilities(served, validation)
    threshold = threshold_for(validation.labels, said, validation.patients, knobs.target_sensitivity)
    metrics = {name: evaluated(served, examples, threshold) for name, examples in judged.items()}
    written = card.describe(served, knobs, films, about, threshold, metrics, [_figures(one) for one in history])
    written["reference"] = reference.reference(served, validation.pixels)
    return store.write(out, served, written)


def _epoch(
    learner: Pupil, batches: Lessons, validation: Examples, knobs: Knobs, ended: Sequence[Standing], watch: Watch
) -> Standing:
    """The next epoch, of which the last standing is returned and not yet told."""
    at = replace(ended[-1], ended=False) if ended else Standing(0, 0, np.nan)
    losses: list[float] = []
    for step in range(1, knobs.steps + 1):
        losses.append(learner.learn(*next(batches)))
        if not np.isfinite(losses[-1]):
            raise TrainingError("The loss is no number any more: the learning rate is too high for these films.")
        at = replace(at, epoch=len(ended) + 1, step=step, loss=float(np.mean(losses)))
        watch(at)
    learner.settle()
    unseen, accuracy = _loss_and_accuracy(validation.labels, learner.probabilities(validation.pixels))
    return replace(at, validation_loss=unseen, validation_accuracy=accuracy, ended=True)


def _take_up(saved: Checkpoint, learner: Pupil, watch: Watch) -> list[Standing]:
    """The epochs of an unfinished run, whose weights the learner gets."""
    found = saved.read()
    if found is None:
        if saved.path.exists():
            note = "An unfinished run of other films, knobs or versions, or one that cannot be read, is given up."
            watch(Standing(0, 0, np.nan, note=note))
        return []
    epochs, arrays = found
    learner.restore(arrays)
    watch(Standing(0, 0, np.nan, note=f"An unfinished run is taken up after its epoch {len(epochs)}."))
    ended = [Standing(**epoch) for epoch in epochs]
    for at in ended:
        watch(at)
    return ended


def _no_longer_better(ended: Sequence[Standing], patience: int) -> bool:
    losses = [at.validation_loss for at in ended]
    return bool(patience and losses) and len(losses) - 1 - int(np.argmin(losses)) >= patience


def _noting(watch: Watch, ended: list[Standing]) -> Watch:
    def noting(at: Standing) -> None:
        if at.ended:
            ended.append(at)
        watch(at)

    return noting


def _figures(at: Standing) -> dict[str, float]:
    of = asdict(at)
    return {name: of[name] for name in EPOCH_FIGURES}


def calibrate(model: Any, validation: Examples) -> tuple[float, float]:
    """Bend the network's logits as the validation patients' films surprise it least (Platt, 1999), in its last weights:
    divided by a temperature, and shifted. Returns both. Running means of weights see films a little darker or lighter
    than the steps did, so a temperature alone does not do.

    The film's logit is the mean of those of its places, or the only one, so that either is shifted by a bias.
    """
    said = np.clip(probabilities(model, validation), EDGE, 1 - EDGE)
    logits, ill = np.log(said / (1 - said)), validation.labels == 1

    def surprise(heat: float, shift: NDArray[np.float64]) -> NDArray[np.float64]:
        bent = logits / heat + shift[:, np.newaxis]
        found: NDArray[np.float64] = np.logaddexp(0, np.where(ill, -bent, bent)).mean(axis=1)
        return found

    found = np.array([surprise(heat, SHIFTS) for heat in TEMPERATURES])
    row, column = np.unravel_index(int(np.argmin(found)), found.shape)
    heat, shift = float(TEMPERATURES[row]), float(SHIFTS[column])
    last = model.get_layer(networks.LAST)
    kernel, bias = last.get_weights()
    last.set_weights([kernel / heat, bias / heat + shift])
    return heat, shift


def probabilities(model: Any, examples: Examples) -> NDArray[np.float64]:
    """Of pneumonia, shape (n,)."""
    return pupil.probabilities(model, examples.pixels)


def evaluated(model: Any, examples: Examples, threshold: float) -> dict[str, Figure]:
    return figures(examples.labels, probabilities(model, examples), examples.patients, threshold)


def _loss_and_accuracy(labels: NDArray[np.float32], probability: NDArray[np.float64]) -> tuple[float, float]:
    right = np.clip(np.where(labels == 1, probability, 1 - probability), 1e-7, 1)  # Keras' own bound
    return float(-np.log(right).mean()), float(((probability >= 0.5) == labels).mean())


def _check(learn: Examples, validation: Examples) -> None:
    if not 0 < learn.labels.mean() < 1:
        raise TrainingError("The training patients need films of both classes; add films of more patients.")
    if not validation.labels.any():
        raise TrainingError(
            "No validation patient has a film with pneumonia to choose a threshold by; add films of more patients."
        )
